"""The exported folder's chat template: our agent's transcript to the id, and whatever OpenAI-style clients send."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from model import ModelConfig
from tasks.curation.tokenizer import SPECIAL_TOKENS, save, train
from tasks.environments import families, generate
from tasks.environments.chat import Chat, ChatError, read_tokenizer

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return train([generate(name, seed, "train").instruction for name in families() for seed in range(200)], 400)


@pytest.fixture(scope="module")
def folder(trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("exported") / "tokenizer"
    save(trained, target)
    return target


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def rendered(loaded: Any, *messages: Any, **settings: Any) -> str:
    return str(loaded.apply_chat_template(list(messages), tokenize=False, **settings))


@pytest.mark.parametrize("form", ["text", "parts", "tool calls"])
def test_the_agents_transcript_has_the_ids_it_was_trained_on(trained: Tokenizer, loaded: Any, form: str) -> None:
    chat = Chat(trained)
    turns = [("sort rin.txt > sea.txt", "sort: cannot read: rin.txt\n", 2), ("sort rain.txt\n", "", 0)]
    messages: list[dict[str, Any]] = [{"role": "user", "content": content("sort rain.txt  \n into sea.txt ", form)}]
    ids = chat.prompt("sort rain.txt  \n into sea.txt ")
    for command, output, code in turns:
        said = {"role": "assistant", "content": content(command, form)}
        if form == "tool calls":
            wanted = {"name": "shell", "arguments": {"command": command}}
            said = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": wanted}]}
        seen = chat.observation_text(output, code)
        messages += [said, {"role": "tool", "tool_call_id": "1", "content": content(seen, form)}]
        ids += [*trained.encode(command).ids, 4, *chat.observation(output, code)]
    found = loaded.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert found == ids


def content(text: str, form: str) -> Any:
    return [{"type": "text", "text": text}] if form == "parts" else text


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"role": "user"}, "<|user|>"),
        ({"role": "user", "content": None}, "<|user|>"),
        ({"role": "user", "content": ""}, "<|user|>"),
        ({"role": "user", "content": []}, "<|user|>"),
        ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]}, "<|user|>a b"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}, "c", None]}, "<|user|>c"),
        ({"role": "system", "content": "s"}, "<|system|>s"),
        ({"role": "developer", "content": "d"}, "<|system|>d"),
        ({"role": "tool", "tool_call_id": "1", "name": "shell", "content": "7\n"}, "<|observation|>7\n"),
        ({"role": "function", "name": "shell", "content": "7"}, "<|observation|>7"),
        ({"role": "critic", "content": "u"}, "<|user|>u"),
        ({"content": "u"}, "<|user|>u"),
        ({"role": None, "content": 3}, "<|user|>3"),
        ({"role": "assistant", "content": None, "refusal": None, "tool_calls": None}, "<|assistant|>"),
        ({"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "ls"}}]}, "<|assistant|>ls"),
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": {"a": 1}}}]}, '<|assistant|>{"a": 1}'),
        ({"role": "assistant", "content": "a", "tool_calls": []}, "<|assistant|>a"),
        ({"role": "assistant", "content": "a", "tool_calls": [{"function": None}, {}]}, "<|assistant|>a\n"),
    ],
)  # fmt: skip
def test_what_clients_send_is_rendered(loaded: Any, message: dict[str, Any], text: str) -> None:
    assert rendered(loaded, message) == text
    assert rendered(loaded, message, add_generation_prompt=True) == text + "<|assistant|>"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["text", "type", "role", "content", "function", "arguments", "command"]), inner, max_size=3
    ),
    max_leaves=8,
)  # fmt: skip


@given(role=VALUES, content=VALUES, calls=VALUES)
def test_no_message_raises(loaded: Any, role: Any, content: Any, calls: Any) -> None:
    for message in ({"role": role, "content": content, "tool_calls": calls}, {"role": "user", "content": content}):
        assert rendered(loaded, message).startswith("<|")


def test_the_special_tokens_are_listed(loaded: Any, folder: Path) -> None:
    assert loaded.all_special_tokens == list(SPECIAL_TOKENS)
    assert [loaded.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS] == list(range(5))
    assert (loaded.eos_token_id, loaded.pad_token_id, loaded.bos_token_id) == (0, 0, None)
    ids = [2, *loaded("sort")["input_ids"], 3, 4, 0]
    assert loaded.decode(ids, skip_special_tokens=True) == "sort"
    loaded.save_pretrained(folder.parent / "again")
    again = transformers.AutoTokenizer.from_pretrained(folder.parent / "again")
    assert again.all_special_tokens == list(SPECIAL_TOKENS)


def test_the_networks_own_ends_are_the_chat_formats() -> None:
    assert set(ModelConfig().eos_token_ids) == set(Chat.stop_ids)


def test_a_tokenizer_that_cannot_be_read_is_one_sentence(tmp_path: Path, trained: Tokenizer) -> None:
    path = tmp_path / "tokenizer.json"
    with pytest.raises(ChatError, match=r"There is no tokenizer .*tokenizer\.json"):
        read_tokenizer(path)
    for content in (b"", b"{}", b"[]", b"\xff\xfe", b'{"model": 3}', trained.to_str().encode()[:-100], b"[" * 10_000):
        path.write_bytes(content)
        with pytest.raises(ChatError, match=r"tokenizer\.json is not a tokenizer") as caught:
            Chat.load(path)
        assert "\n" not in str(caught.value)
    trained.save(str(path))
    assert Chat.load(path, vocab_size=400).prompt("x")[0] == 2
    assert read_tokenizer(path, 512).get_vocab_size() == 400
    with pytest.raises(ChatError, match="token ids up to 399, but the model's vocab_size is 399"):
        Chat.load(path, vocab_size=399)
