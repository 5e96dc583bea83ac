"""What a training stage says at its end."""

import json
from pathlib import Path
from typing import Literal

import pytest
import torch

from model import Transformer
from tasks.environments.chat import Chat
from tasks.training import finish
from tasks.training.finish import estimates
from tests.tasks.training import tiny


def test_the_last_line_names_every_estimate_and_nothing_else() -> None:
    score = {"value": 2.2931, "ci95": [2.21, 2.3764], "n": 160}
    metrics = {"heldout_bits_per_byte": score, "steps": 310, "curve": [[1, 2.0]], "before": {"retrieval": score}}
    assert estimates(metrics) == "heldout bits per byte 2.293 [2.210, 2.376]"


@pytest.mark.parametrize("attention", ["dense", "sparse"])
def test_a_stage_records_how_its_network_attends(tmp_path: Path, attention: Literal["dense", "sparse"]) -> None:
    (tmp_path / "tokenizer").mkdir()
    network, ids = tiny.transformer(), torch.randint(0, tiny.CONFIG.vocab_size, (2, 30))
    finish.write_checkpoint(network, tmp_path / "model", tmp_path / "tokenizer", {}, [(1, 2.0)], attention=attention)
    again = Transformer.from_pretrained(tmp_path / "model")
    assert again.config == network.config
    assert torch.equal(again(ids).logits, network(ids, mode=attention).logits)
    transformers = pytest.importorskip("transformers")
    with torch.no_grad():
        theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")(ids).logits
    if attention == "dense":  # no selection, so no tie decides
        assert (again(ids).logits - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    settings = json.loads((tmp_path / "model/generation_config.json").read_text())
    assert set(settings["eos_token_id"]) == set(Chat.stop_ids)
