"""Numbers of parameters."""

import pytest

from model import ModelConfig
from model.size import main, measure, readable
from tests.model.shapes import small_config, small_transformer


def test_glm5_has_the_papers_size() -> None:
    """744 billion parameters of which 40 billion are active (GLM-5, section 2.1), built without memory."""
    size = measure(ModelConfig.preset("glm5"))
    assert size.total / 1e9 == pytest.approx(744, rel=0.01)
    assert size.active / 1e9 == pytest.approx(40, rel=0.05)


def test_every_parameter_is_counted_once() -> None:
    transformer, size = small_transformer(), measure(small_config())
    assert size.total + size.mtp == sum(parameter.numel() for parameter in transformer.parameters())
    experts = sum(p.numel() for layer in transformer.model.layers[1:] for p in layer.mlp.experts.parameters())
    assert size.total - size.active == experts // 2


def test_counts_are_readable() -> None:
    assert [readable(n) for n in (743_900_000_000, 2_041_000, 39_960, 12)] == ["744 B", "2.04 M", "40.0 k", "12"]


def test_the_command_prints_the_named_presets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["size", "laptop", "glm5"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["preset", "laptop", "glm5"]
    assert "744 B" in lines[2]
