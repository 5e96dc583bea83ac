"""What a training stage says at its end."""

from tasks.training.finish import estimates


def test_the_last_line_names_every_estimate_and_nothing_else() -> None:
    score = {"value": 2.2931, "ci95": [2.21, 2.3764], "n": 160}
    metrics = {"heldout_bits_per_byte": score, "steps": 310, "curve": [[1, 2.0]], "before": {"retrieval": score}}
    assert estimates(metrics) == "heldout bits per byte 2.293 [2.210, 2.376]"
