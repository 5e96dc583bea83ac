"""How metrics become a table."""

from flows.stage import ADVICE, STEP, flatten


def test_flatten_keeps_an_estimate_in_one_cell() -> None:
    metrics = {"shell": {"pass_at_1": {"value": 0.5, "ci95": [0.4, 0.6], "n": 400}}, "seconds": 3}
    assert flatten(metrics) == {"shell.pass_at_1": "0.500 [0.400, 0.600] n=400", "seconds": "3"}


def test_progress_lines_are_understood() -> None:
    match = STEP.search("[pretrain] step 120/800 loss 2.31")
    assert match is not None
    assert match.groups() == ("120", "800")


def test_advice_is_told_from_what_a_stage_says() -> None:
    assert ADVICE.match("To track the changes with git, run:")
    assert ADVICE.match("\tgit add dvc.lock")
    assert not ADVICE.match("Stage 'curate' didn't change, skipping")
    assert not ADVICE.match("[curate] step 1/5 reading machine")
