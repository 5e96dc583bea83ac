"""How an episode becomes tokens: the one place that knows the transcript's format.

    <|user|>{instruction}<|assistant|>{command}<|observation|>{output}<|assistant|>...<|assistant|><|endoftext|>

The model's tokens of a turn are a command and the token that closes it: `<|observation|>` runs the command,
`<|endoftext|>` ends the episode. Each piece is encoded alone, in training as in rollout, so the ids agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from tasks.cli import one_line
from tasks.errors import InputError

END, USER, ASSISTANT, OBSERVATION = 0, 2, 3, 4
CONTROL = {"<|endoftext|>": END, "<|user|>": USER, "<|assistant|>": ASSISTANT, "<|observation|>": OBSERVATION}
SHELL_LINE = re.compile(r"^bash: line \d+: ", re.MULTILINE)  # a line of the sandbox's own loop: tells nothing


class ChatError(InputError):
    """A tokenizer that is missing, damaged, another model's, or without the chat format's control tokens."""


def read_tokenizer(path: str | Path, vocab_size: int | None = None) -> Tokenizer:
    """A tokenizer.json. Raises ChatError where it cannot be read, or has ids that a model of vocab_size has not."""
    path = Path(path)
    if not path.is_file():
        raise ChatError(f"There is no tokenizer {path}.")
    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes())
    except Exception as error:  # the library raises no class of its own
        raise ChatError(
            f"{path} is not a tokenizer.json that can be read ({one_line(str(error)).rstrip('.')})."
        ) from error
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if vocab_size is not None and largest >= vocab_size:
        raise ChatError(f"{path} has token ids up to {largest}, but the model's vocab_size is {vocab_size}.")
    return tokenizer


class Chat:
    """Chat format over any `tokenizers.Tokenizer` that has the five special tokens as ids 0 to 4.

    Control tokens spelled out in an instruction or in what a command prints stay text: only this class places them.
    """

    stop_ids: tuple[int, ...] = (OBSERVATION, END)

    def __init__(self, tokenizer: Tokenizer, max_observation_bytes: int = 120) -> None:
        """Raises ChatError if a control token has another id."""
        for token, wanted in CONTROL.items():
            if tokenizer.token_to_id(token) != wanted:
                raise ChatError(f"The tokenizer has {token} at id {tokenizer.token_to_id(token)}, not {wanted}.")
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())  # a copy: the switch below is not ours to set
        self._tokenizer.encode_special_tokens = True
        self.max_observation_bytes = max_observation_bytes

    @classmethod
    def load(cls, path: str | Path, max_observation_bytes: int = 120, vocab_size: int | None = None) -> Chat:
        """From a tokenizer.json file, read as by `read_tokenizer`."""
        return cls(read_tokenizer(path, vocab_size), max_observation_bytes)

    def prompt(self, instruction: str) -> list[int]:
        """Ids of the episode's start; the model continues with its first command."""
        return [USER, *self._encode(instruction), ASSISTANT]

    def observation(self, output: str, exit_code: int) -> list[int]:
        """Ids of what the command printed (cut) and its exit code where not 0; the model continues."""
        return [*self._encode(self.observation_text(output, exit_code)), ASSISTANT]

    def observation_text(self, output: str, exit_code: int) -> str:
        """What the agent sees of a command: at most `max_observation_bytes` of output, `[exit N]` when N is not 0."""
        output = SHELL_LINE.sub("bash: ", output)
        shown = output.encode()[: self.max_observation_bytes].decode("utf-8", "ignore").rstrip("\n")
        parts = [shown] if shown else []
        return "\n".join(parts + ([f"[exit {exit_code}]"] if exit_code else []))

    def command(self, ids: Sequence[int]) -> str:
        """The command in a turn's sampled ids; control tokens are left out. Empty when the model only finished."""
        return str(self._tokenizer.decode([i for i in ids if i > OBSERVATION], skip_special_tokens=False)).strip()

    def render_demo(self, demo: Mapping[str, Any]) -> tuple[list[int], list[float]]:
        """(ids, loss weights) of a demonstration; weight 1 on the tokens the model would have written, else 0."""
        ids = self.prompt(demo["instruction"])
        weights = [0.0] * len(ids)
        for turn in demo["turns"]:
            written = [*self._encode(turn["command"]), OBSERVATION]
            seen = self.observation(turn["output"], turn["exit_code"])
            ids += written + seen
            weights += [1.0] * len(written) + [0.0] * len(seen)
        return [*ids, END], [*weights, 1.0]

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)
