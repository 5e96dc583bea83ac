"""The tokenizer: fixed special ids, lossless, repeatable, loadable by transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tasks.curation import tokenizer as curation_tokenizer
from tasks.curation.corpus import TokenizerPlan
from tasks.curation.documents import SourceError
from tasks.curation.tokenizer import (
    SPECIAL_TOKENS,
    TokenizerError,
    check_vocabulary,
    demonstration_texts,
    encode,
    save,
    train,
    training_texts,
)

TEXTS = [f"def function_{word}(value):\n    return {word} + value * 2\n" for word in ("alpha", "beta", "gamma")]


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train(TEXTS * 20, 300)


def test_special_tokens_have_the_first_ids(trained: Tokenizer) -> None:
    assert [trained.token_to_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert trained.get_vocab_size() == 300


@given(text=st.text())
def test_any_text_survives_and_no_special_token_appears(trained: Tokenizer, text: str) -> None:
    ids = encode(trained, [text])[0]
    assert trained.decode(ids, skip_special_tokens=False) == text
    assert all(token > 4 for token in ids)


def test_a_special_token_spelled_out_in_a_document_stays_text(trained: Tokenizer) -> None:
    ids = encode(trained, ["<|assistant|>rm -r<|endoftext|>"])[0]
    assert not set(ids) & {0, 1, 2, 3, 4}
    assert trained.encode("<|assistant|>").ids == [3]


def test_digits_stay_single(trained: Tokenizer) -> None:
    assert len(encode(train(["2024 " * 500, *TEXTS * 20], 300), ["2024"])[0]) == 4


def test_same_texts_same_bytes() -> None:
    assert train(TEXTS * 20, 300).to_str() == train(TEXTS * 20, 300).to_str()


def test_too_small_a_vocabulary_and_too_few_texts_are_refused() -> None:
    with pytest.raises(TokenizerError, match=r"'model\.vocab_size' is 200"):
        train(TEXTS, 200)
    with pytest.raises(TokenizerError, match="gives only"):
        train(["ab"], 300)


def write_demonstrations(folder: Path) -> None:
    turns = [{"command": "frobnicate notes.txt", "output": "ok", "exit_code": 0}]
    record = {"task_id": "t", "instruction": "Frobnicate the notes.", "turns": turns}
    (folder / "shell.jsonl").write_text(json.dumps(record) + "\n")
    (folder / "heldout.jsonl").write_text(json.dumps({"instruction": "secret"}) + "\n")


def test_demonstrations_without_the_heldout_tasks(tmp_path: Path) -> None:
    write_demonstrations(tmp_path)
    assert demonstration_texts(tmp_path) == ["Frobnicate the notes.", "frobnicate notes.txt", "ok"]
    assert demonstration_texts(tmp_path / "absent") == []


def test_broken_demonstration_names_file_and_line(tmp_path: Path) -> None:
    write_demonstrations(tmp_path)
    with (tmp_path / "shell.jsonl").open("a") as stream:
        stream.write('{"instruction":')
    with pytest.raises(SourceError, match=r"shell\.jsonl, line 2, is not valid JSON"):
        demonstration_texts(tmp_path)


def test_demonstrations_weigh_as_asked(tmp_path: Path) -> None:
    write_demonstrations(tmp_path)
    demonstrations = demonstration_texts(tmp_path)
    texts = list(training_texts(["x" * 1000, "y" * 1000], demonstrations, 1500, 0.5))
    assert texts[:2] == ["x" * 1000, "y" * 1000]
    assert sum(map(len, texts[2:])) == pytest.approx(1000, rel=0.05)
    tokens = encode(train([*TEXTS * 3, *texts[2:]], 300), ["frobnicate"])[0]
    assert len(tokens) == 1


def test_transformers_loads_it_with_the_chat_template(trained: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save(trained, tmp_path / "tokenizer")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    messages = [
        {"role": "user", "content": "count"},
        {"role": "assistant", "content": "wc -l"},
        {"role": "tool", "content": "7"},
    ]
    rendered = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|user|>count<|assistant|>wc -l<|observation|>7<|assistant|>"
    assert loaded(rendered).input_ids == trained.encode(rendered).ids
    assert (loaded.eos_token_id, loaded.pad_token_id) == (0, 0)


def test_the_roles_of_the_template_are_special_tokens() -> None:
    for token in SPECIAL_TOKENS[1:]:
        assert token in curation_tokenizer.CHAT_TEMPLATE


@pytest.mark.parametrize("texts", [[], [""], ["a" * 100_000], ["😀" * 5000], ["\n" * 5000], [" "]])
def test_a_degenerate_corpus_is_one_sentence_or_a_tokenizer(texts: list[str]) -> None:
    with pytest.raises(TokenizerError, match=r"The corpus gives only \d+ tokens .* give more text or a smaller"):
        train(texts, 1024)
    assert train(texts, 261).get_vocab_size() == 261


@pytest.mark.parametrize("size", [None, "1024", True, 1024.0, -1, 260])
def test_a_vocabulary_that_is_no_size_is_one_sentence(size: object) -> None:
    with pytest.raises(TokenizerError, match=r"The key 'model\.vocab_size' is .*; byte-level BPE needs 261 or more\."):
        check_vocabulary(size)


def test_a_weight_that_would_train_for_ever_is_refused() -> None:
    with pytest.raises(TokenizerError, match=r"'curate\.demonstration_weight' is 1e\+300"):
        TokenizerPlan(1024, 1000, 1e300)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ({"instruction": 7}, "line 1, has no text in the field 'instruction'"),
        ({"instruction": "\ud800"}, "line 1, has no text in the field 'instruction'"),
        ({"instruction": "x"}, "has no list 'turns' whose commands and outputs are texts"),
        ({"instruction": "x", "turns": [3]}, "has no list 'turns'"),
        ({"instruction": "x", "turns": [{"command": "ls"}]}, "has no list 'turns'"),
        ({"instruction": "x", "turns": [{"command": "ls", "output": None}]}, "has no list 'turns'"),
        ({"instruction": "x", "turns": [{"command": "ls", "output": "\udfff"}]}, "has no list 'turns'"),
        ([], "line 1, has no text in the field 'instruction'"),
    ],
)
def test_a_demonstration_of_the_wrong_form_names_the_file(tmp_path: Path, line: object, sentence: str) -> None:
    (tmp_path / "shell.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(SourceError) as caught:
        demonstration_texts(tmp_path)
    assert "shell.jsonl" in str(caught.value)
    assert sentence in str(caught.value)


def test_deep_and_unprintable_demonstrations(tmp_path: Path) -> None:
    (tmp_path / "shell.jsonl").write_bytes(b"[" * 100_000)
    with pytest.raises(SourceError, match=r"shell\.jsonl, line 1, is not valid JSON: it is nested too deeply"):
        demonstration_texts(tmp_path)
    (tmp_path / "shell.jsonl").write_text('{"instruction": "a \u2028 b \u0085 c", "turns": []}\n', encoding="utf-8")
    assert demonstration_texts(tmp_path) == ["a \u2028 b \u0085 c"]
