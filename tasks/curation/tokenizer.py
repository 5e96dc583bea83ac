"""Byte-level BPE, its five special tokens and its chat template, as files that transformers loads unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from tasks.curation.documents import SourceError, is_text, read_records
from tasks.errors import InputError

END_OF_TEXT, SYSTEM, USER, ASSISTANT, OBSERVATION = range(5)
SPECIAL_TOKENS = ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256

# A word keeps the space or the dot before it (`.txt`, `.join`: a fifth fewer tokens a command at equal bytes a token
# of the corpus); digits stay single, so that a number is read as its digits; indentation is one run.
PIECES = r"[ .]?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# For clients of the OpenAI kind: a content may be absent, null, text or parts, of which those that are text are read; a
# tool call is the command it holds; `developer` is today's name of `system`; a role nobody knows speaks as the user.
CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{ content }}
{%- elif content is none or content is undefined -%}
{%- elif content is mapping -%}{{ text(content.get('text')) }}
{%- elif content is iterable -%}{%- for part in content -%}{{ text(part) }}{%- endfor -%}
{%- else -%}{{ content }}
{%- endif -%}
{%- endmacro -%}
{%- macro call(function) -%}
{%- if function is mapping -%}
{%- set given = function.get('arguments') -%}
{%- if given is mapping and given.get('command') is string -%}{{ given.get('command') }}
{%- elif given is mapping -%}{{ given | tojson }}
{%- else -%}{{ text(given) }}
{%- endif -%}
{%- endif -%}
{%- endmacro -%}
{%- set tokens = {'system': '<|system|>', 'developer': '<|system|>', 'assistant': '<|assistant|>',
                  'tool': '<|observation|>', 'function': '<|observation|>'} -%}
{%- for message in messages -%}
{%- set role, wanted = message['role'], message['tool_calls'] -%}
{{ tokens.get(role, '<|user|>') if role is string else '<|user|>' }}{{ text(message['content']) }}
{%- if wanted is iterable and wanted is not string and wanted is not mapping -%}
{%- for one in wanted if one is mapping -%}
{{ call(one.get('function')) }}{%- if not loop.last -%}{{ '\\n' }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"""


class TokenizerError(InputError):
    """The tokenizer cannot be trained as asked."""


def train(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains byte-level BPE (Sennrich et al. 2016, bytes as in GPT-2). The same texts give the same file.

    Raises TokenizerError if the vocabulary is too small for the bytes, or the texts too few for the vocabulary.
    """
    check_vocabulary(vocab_size)
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise TokenizerError(
            f"The corpus gives only {tokenizer.get_vocab_size()} tokens and 'model.vocab_size' asks for {vocab_size}; "
            "give more text or a smaller vocabulary."
        )
    return tokenizer


def check_vocabulary(vocab_size: object) -> int:
    """The size if byte-level BPE can have it: no vocabulary is smaller than its bytes. Raises TokenizerError."""
    if not isinstance(vocab_size, int) or isinstance(vocab_size, bool) or vocab_size < SMALLEST_VOCABULARY:
        raise TokenizerError(
            f"The key 'model.vocab_size' is {vocab_size!r}; byte-level BPE needs {SMALLEST_VOCABULARY} or more."
        )
    return vocab_size


def demonstration_texts(folder: Path) -> list[str]:
    """Instructions, commands and outputs of the training demonstrations in `folder`, in order; none if absent."""
    texts: list[str] = []
    for path in sorted(folder.glob("*.jsonl")):
        if path.name == "heldout.jsonl":
            continue
        for number, demonstration in enumerate(read_records(path), start=1):
            texts.append(demonstration["instruction"])
            texts.extend(_turn_texts(demonstration.get("turns"), f"The demonstration {number} of {path}"))
    return texts


def _turn_texts(turns: object, place: str) -> list[str]:
    fields = [turn if isinstance(turn, dict) else {} for turn in turns] if isinstance(turns, list) else [{}]
    texts = [turn.get(part) for turn in fields for part in ("command", "output")]
    if not all(is_text(text) for text in texts):
        raise SourceError(f"{place} has no list 'turns' whose commands and outputs are texts.")
    return [str(text) for text in texts]


def training_texts(
    corpus: Sequence[str], demonstrations: Sequence[str], sample_bytes: int, demonstration_weight: float
) -> Iterator[str]:
    """A sample of the corpus, then the demonstrations, repeated to weigh `demonstration_weight` times the sample.

    Commands are a few hundred kilobytes of text; unrepeated, their words would lose every merge to the corpus.
    """
    used = 0
    for text in corpus:
        if used >= sample_bytes:
            break
        used += len(text)
        yield text
    size = sum(map(len, demonstrations))
    repeats = max(1, round(demonstration_weight * used / size)) if size else 0
    for _ in range(repeats):
        yield from demonstrations


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """Writes tokenizer.json and the tokenizer_config.json by which transformers' AutoTokenizer finds it."""
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    listed = {
        str(number): {"content": token, "special": True, "lstrip": False, "normalized": False, "rstrip": False,
                      "single_word": False}
        for number, token in enumerate(SPECIAL_TOKENS)
    }  # fmt: skip
    config = {
        "added_tokens_decoder": listed,
        "bos_token": None,
        "unk_token": None,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": SPECIAL_TOKENS[END_OF_TEXT],
        "pad_token": SPECIAL_TOKENS[END_OF_TEXT],
        "additional_special_tokens": list(SPECIAL_TOKENS[1:]),
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text. Special tokens spelled out in a text stay text: only the recipe may place them."""
    tokenizer.encode_special_tokens = True
    try:
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]
    finally:
        tokenizer.encode_special_tokens = False
