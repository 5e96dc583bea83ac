"""Weight files as others leave them: shards, kinds of number, copies, damage; read rightly or refused by name."""

import json
import logging
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model import CheckpointError, Transformer
from tests.model.shapes import small_transformer, tokens

MTP = "model.layers.3."


def saved(folder: Path, **changes: object) -> dict[str, Tensor]:
    """A checkpoint of ours; its tensors."""
    small_transformer(**changes).save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def rewrite(folder: Path, tensors: dict[str, Tensor], keep_hashes: bool = False) -> None:
    """Other tensors in the same folder, as a program that knows nothing of our hashes leaves it."""
    save_file(tensors, folder / "model.safetensors")
    if not keep_hashes:
        for name in ("longhaul.json", "tensors.sha256"):
            (folder / name).unlink(missing_ok=True)


def shard(folder: Path, tensors: dict[str, Tensor], parts: int = 3) -> list[Path]:
    """The tensors in several files and an index of them, in place of the one file."""
    names = sorted(tensors)
    weight_map = {name: f"model-{number % parts + 1:05}-of-{parts:05}.safetensors" for number, name in enumerate(names)}
    for file in set(weight_map.values()):
        save_file({name: tensors[name] for name in names if weight_map[name] == file}, folder / file)
    write_index(folder, weight_map)
    (folder / "model.safetensors").unlink(missing_ok=True)
    return sorted(folder.glob("model-*.safetensors"))


def write_index(folder: Path, weight_map: object) -> None:
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def read_map(folder: Path) -> dict[str, str]:
    return dict(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"])


def flip(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_shards_of_our_own_are_verified_every_one(tmp_path: Path) -> None:
    tensors = saved(tmp_path)
    expected = Transformer.from_pretrained(tmp_path).state_dict()
    paths = shard(tmp_path, tensors)
    found = Transformer.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    for path in paths:
        flip(path)
        with pytest.raises(CheckpointError, match=r"shards|weight files.*sha256"):
            Transformer.from_pretrained(tmp_path)
        flip(path)
    (tmp_path / "tensors.sha256").unlink()  # what is left is the hash of a file that is not there
    with pytest.raises(CheckpointError, match=r"sha256 that .*longhaul\.json records"):
        Transformer.from_pretrained(tmp_path)


def test_a_folder_without_a_hash_is_read_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = saved(tmp_path)
    with caplog.at_level(logging.WARNING):
        Transformer.from_pretrained(tmp_path)
    assert caplog.messages == []
    rewrite(tmp_path, tensors)
    with caplog.at_level(logging.WARNING):
        Transformer.from_pretrained(tmp_path)
    assert [message for message in caplog.messages if "no hash" in message]


def test_one_file_is_read_and_no_index_beside_it(tmp_path: Path) -> None:
    tensors = saved(tmp_path)
    shard(tmp_path, {name: tensor + 1 for name, tensor in tensors.items()})
    rewrite(tmp_path, tensors)
    read = Transformer.from_pretrained(tmp_path).state_dict()
    assert torch.equal(read["model.norm.weight"], tensors["model.norm.weight"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_floating_kinds_become_fp32(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in saved(tmp_path).items()}
    rewrite(tmp_path, tensors)
    network = Transformer.from_pretrained(tmp_path)
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    assert torch.equal(network.lm_head.weight, tensors["lm_head.weight"].float())
    assert network(tokens(1, 20)).logits.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.int64, torch.bool, torch.uint8])
def test_quantized_weights_are_refused_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = saved(tmp_path)
    rewrite(tmp_path, tensors | {"lm_head.weight": tensors["lm_head.weight"].to(dtype)})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight as "):
        Transformer.from_pretrained(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["model.layers.1.mlp.experts.2.up_proj.weight", "model.norm.weight"])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float, name: str) -> None:
    tensors = saved(tmp_path)
    tensors[name].view(-1)[3] = value
    rewrite(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=rf"not finite numbers in the tensor {name}"):
        Transformer.from_pretrained(tmp_path)


def test_a_folder_without_the_mtp_layer_is_read_without_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = small_transformer()
    tensors = {name: tensor for name, tensor in saved(tmp_path).items() if not name.startswith(MTP)}
    rewrite(tmp_path, tensors)
    network = Transformer.from_pretrained(tmp_path)
    assert network.mtp is None
    assert network.config.num_nextn_predict_layers == 0
    assert any("MTP layer" in message for message in caplog.messages)
    assert torch.equal(network(tokens(2, 30)).logits, whole(tokens(2, 30)).logits)


def test_an_incomplete_mtp_layer_is_refused(tmp_path: Path) -> None:
    tensors = saved(tmp_path)
    del tensors[f"{MTP}eh_proj.weight"]
    rewrite(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=r"lacks the tensor model\.layers\.3\.eh_proj\.weight"):
        Transformer.from_pretrained(tmp_path)


def test_an_mtp_layer_that_is_switched_off_is_left_out(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_nextn_predict_layers": 0}))
    assert Transformer.from_pretrained(tmp_path).mtp is None
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_nextn_predict_layers": None}))
    assert Transformer.from_pretrained(tmp_path).mtp is None


def test_a_lost_layer_is_no_mtp_layer(tmp_path: Path) -> None:
    saved(tmp_path, num_nextn_predict_layers=0)
    values = json.loads((tmp_path / "config.json").read_text())
    fewer = {"num_hidden_layers": 2, "mlp_layer_types": None, "indexer_types": None}
    (tmp_path / "config.json").write_text(json.dumps(values | fewer))
    with pytest.raises(CheckpointError, match=r"has a tensor model\.layers\.2\."):
        Transformer.from_pretrained(tmp_path)


def test_copies_of_embedding_and_head_in_the_mtp_layer_are_accepted_if_equal(tmp_path: Path) -> None:
    tensors = saved(tmp_path)
    copies = {
        f"{MTP}embed_tokens.weight": tensors["model.embed_tokens.weight"].clone(),
        f"{MTP}shared_head.head.weight": tensors["lm_head.weight"].clone(),
    }
    rewrite(tmp_path, tensors | copies)
    assert Transformer.from_pretrained(tmp_path).mtp is not None
    for name in copies:
        rewrite(tmp_path, tensors | copies | {name: copies[name] + 1})
        with pytest.raises(CheckpointError, match=rf"{name} differs from"):
            Transformer.from_pretrained(tmp_path)
    copies[f"{MTP}embed_tokens.weight"] = torch.zeros(3, 3)
    rewrite(tmp_path, tensors | copies)
    with pytest.raises(CheckpointError, match="embed_tokens"):
        Transformer.from_pretrained(tmp_path)


def test_what_no_part_reads_is_no_matter(tmp_path: Path) -> None:
    tensors = saved(tmp_path, indexer_types=("full", "shared", "full"))
    extra = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2),
        "model.layers.1.self_attn.indexer.wk.weight": torch.ones(8, 32),
    }
    rewrite(tmp_path, tensors | extra)
    Transformer.from_pretrained(tmp_path)


def test_stacked_experts_are_read_too(tmp_path: Path) -> None:
    tensors, state = saved(tmp_path), small_transformer().state_dict()
    stacked = {name: value for name, value in state.items() if ".experts." in name and not name.startswith("mtp.")}
    rest = {name: value for name, value in tensors.items() if ".experts." not in name or name.startswith(MTP)}
    rewrite(tmp_path, rest | {name: value.clone() for name, value in stacked.items()})
    read = Transformer.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(read[name], value) for name, value in state.items())


Tensors = dict[str, Tensor]
DAMAGE: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "an expert too few": (
        lambda t: {n: v for n, v in t.items() if ".experts.3.up" not in n}, r"lacks .*experts\.3\.up_proj",
    ),
    "an expert too many": (
        lambda t: t | {"model.layers.1.mlp.experts.4.up_proj.weight": torch.ones(16, 32)}, r"experts\.4\.up_proj",
    ),
    "an expert of another shape": (
        lambda t: t | {"model.layers.1.mlp.experts.2.up_proj.weight": torch.ones(15, 32)}, r"experts\.2.*has shape",
    ),
    "a missing head": (lambda t: {n: v for n, v in t.items() if n != "lm_head.weight"}, r"lacks .*lm_head\.weight"),
    "an unknown tensor": (lambda t: t | {"model.extra": torch.ones(1)}, r"model\.extra"),
    "a bias": (lambda t: t | {"model.layers.0.self_attn.o_proj.bias": torch.ones(32)}, r"o_proj\.bias"),
    "no tensor at all": (lambda t: {}, "lacks the tensor"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_tensors_that_do_not_fit_are_named(tmp_path: Path, kind: str) -> None:
    change, named = DAMAGE[kind]
    rewrite(tmp_path, change(saved(tmp_path)))
    with pytest.raises(CheckpointError, match=named):
        Transformer.from_pretrained(tmp_path)


def header(entries: object, size: int | None = None, body: bytes = b"") -> bytes:
    text = json.dumps(entries).encode() if not isinstance(entries, bytes) else entries
    return struct.pack("<Q", len(text) if size is None else size) + text + body


@pytest.mark.parametrize(
    "content",
    [
        b"", b"x", bytes(7), bytes(8), header({}, 2**63), header({}, 10**9), header(b"not json"), header(b"[]"),
        header({"a": 3}), header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}),
        header({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}, body=bytes(4)),
        header({"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, body=bytes(12)),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, body=bytes(4)),
        header({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}, body=bytes(4)),
        header(b"\xff" * 8), b"PK\x03\x04" + bytes(100),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sharded", [False, True])
def test_a_file_that_is_no_safetensors_file_is_named(tmp_path: Path, content: bytes, sharded: bool) -> None:
    tensors = saved(tmp_path)
    path = shard(tmp_path, tensors)[1] if sharded else tmp_path / "model.safetensors"
    path.write_bytes(content)
    for name in ("longhaul.json", "tensors.sha256"):
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match=r"\.safetensors is truncated or not|lacks the tensor|no file") as caught:
        Transformer.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "weight_map",
    [None, [], {}, "model.safetensors", {"a": 3}, {"a": "../model.safetensors"}, {"a": "/etc/passwd"}, {"a": ""},
     {"a": "model-9.safetensors"}, {"a": "."}, {"a": ".."}, {"a": "sub/model.safetensors"}, {"a": "config.json"},
     {"a": "x\0.safetensors"}, {"a": ["b"]}, {"a": None}],
)  # fmt: skip
def test_an_index_that_leads_nowhere_is_refused(tmp_path: Path, weight_map: object) -> None:
    folder = tmp_path / "model"
    tensors = saved(folder)
    save_file(tensors, tmp_path / "model.safetensors")
    shard(folder, tensors)
    write_index(folder, weight_map)
    with pytest.raises(CheckpointError, match=r"weight_map|names no safetensors file|no file model-9"):
        Transformer.from_pretrained(folder)


def test_an_index_and_its_shards_must_agree(tmp_path: Path) -> None:
    tensors = saved(tmp_path)
    first, second, *_ = shard(tmp_path, tensors)
    whole = read_map(tmp_path)
    one = next(name for name, file in whole.items() if file == first.name)
    write_index(tmp_path, whole | {one: second.name})
    with pytest.raises(CheckpointError, match=r"does not list there|lacks the tensor"):
        Transformer.from_pretrained(tmp_path)
    write_index(tmp_path, {name: file for name, file in whole.items() if name != one})
    with pytest.raises(CheckpointError, match=r"holds a tensor .* does not list"):
        Transformer.from_pretrained(tmp_path)
    write_index(tmp_path, whole | {"model.ghost": first.name})
    with pytest.raises(CheckpointError, match=r"lacks the tensor model\.ghost"):
        Transformer.from_pretrained(tmp_path)
    save_file(load_file(second) | {one: tensors[one]}, second)
    write_index(tmp_path, whole)
    with pytest.raises(CheckpointError, match=f"both hold the tensor {one}|does not list there"):
        Transformer.from_pretrained(tmp_path)
    first.unlink()
    with pytest.raises(CheckpointError, match=f"no file {first.name}"):
        Transformer.from_pretrained(tmp_path)


def test_a_config_too_large_for_its_weights_allocates_nothing(tmp_path: Path) -> None:
    saved(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for changes in ({"hidden_size": 2**24, "moe_intermediate_size": 2**24, "n_routed_experts": 2**16},
                    {"hidden_size": 2**22}, {"vocab_size": 2**24, "hidden_size": 2**20}):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(values | changes))
        with pytest.raises(CheckpointError, match=r"too large|has shape|lacks"):
            Transformer.from_pretrained(tmp_path)


def test_other_kinds_of_folder_are_said_to_be_such(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        Transformer.from_pretrained(tmp_path / "absent")
    saved(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"no file model\.safetensors, and pytorch_model\.bin is not read"):
        Transformer.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"no file model\.safetensors"):
        Transformer.from_pretrained(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"model_sha256": 5}', b'{"model_sha256": "abc"}', b"\xff"])
def test_a_damaged_record_is_refused(tmp_path: Path, content: bytes) -> None:
    saved(tmp_path)
    (tmp_path / "longhaul.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"longhaul\.json"):
        Transformer.from_pretrained(tmp_path)
