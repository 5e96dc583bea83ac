"""The agent loop: tokens in, tokens out, with a scripted engine and boxes that never leave this process."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from model.engine import Completion
from tasks.environments.task import Task
from tasks.rl.agent import AgentLimits, EpisodeSpec, request_seed, run_episodes
from tasks.rl.trajectory import NOT_SAMPLED

END, ASSISTANT, RUN = 0, 3, 4


@dataclass
class ScriptedEngine:
    """Answers the n-th request of every session with the n-th turn of the script; version counts the steps."""

    script: list
    version: int = 0
    requests: list = field(default_factory=list)
    waiting: list = field(default_factory=list)
    released: list = field(default_factory=list)

    @property
    def has_work(self):
        return bool(self.waiting)

    def submit(self, request):
        self.requests.append(request)
        self.waiting.append(request)

    def release(self, session):
        self.released.append(session)

    def step(self):
        self.version += 1
        completions, self.waiting = [self._answer(request) for request in self.waiting], []
        return completions

    def _answer(self, request):
        turn = sum(earlier.session == request.session for earlier in self.requests) - 1
        ids = list(self.script[turn])
        reason = "stop" if ids[-1] in request.stop_ids else "length"
        return Completion(request.id, request.session, ids, [-0.1 * i for i in ids], [self.version] * len(ids), reason)


class Chat:
    stop_ids = (RUN, END)

    def prompt(self, instruction):
        return [2, 100, ASSISTANT]

    def command(self, ids):
        return " ".join(str(i) for i in ids if i > RUN)

    def observation(self, output, exit_code):
        return [200 + exit_code] * len(output) + [ASSISTANT]


class Factory:
    def __init__(self, fail_on=None):
        self.fail_on = fail_on
        self.commands, self.opened, self.closed = [], 0, 0

    def box(self, files):
        self.opened += 1
        return SimpleNamespace(
            run=self._run, collect=lambda globs: {"a.txt": b"1"}, close=self._close, isolation="none"
        )

    def _run(self, command):
        if command == self.fail_on:
            raise RuntimeError("the box is gone")
        self.commands.append(command)
        return SimpleNamespace(output="xy", exit_code=1 if command == "9" else 0)

    def _close(self):
        self.closed += 1


def task(max_turns=4):
    return Task("t", "shell", 1, "train", "copy", "do it", {}, {}, (), ("*",), 1, max_turns)


def run(script, factory=None, limits=None, episodes=1, max_turns=4):
    engine, factory, found = ScriptedEngine(script), factory or Factory(), []
    specs = [EpisodeSpec(task(max_turns), seed, group=seed) for seed in range(episodes)]
    run_episodes(engine, Chat(), factory, specs, 2, lambda spec, trajectory: found.append(trajectory), limits)
    assert factory.opened == factory.closed == episodes
    assert len(engine.released) == episodes
    return engine, factory, found


def test_the_sampled_tokens_are_recorded_as_they_were():
    _, factory, (trajectory,) = run([[9, RUN], [8, 7, RUN], [END]])
    assert trajectory.token_ids == [2, 100, 3, 9, RUN, 201, 201, 3, 8, 7, RUN, 200, 200, 3, END]
    assert trajectory.loss_mask == [0, 0, 0, 1, 1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1]
    assert trajectory.log_probs[3] == pytest.approx(-0.9)
    assert trajectory.versions == [-1, -1, -1, 1, 1, -1, -1, -1, 2, 2, 2, -1, -1, -1, 3]
    assert [log_prob for log_prob, bit in zip(trajectory.log_probs, trajectory.loss_mask, strict=True) if not bit] == [
        0.0
    ] * 9
    assert NOT_SAMPLED not in trajectory.sampled_versions
    assert factory.commands == ["9", "8 7"]
    assert (trajectory.turns, trajectory.failed_commands, trajectory.finish_reason) == (2, 1, "stop")
    assert trajectory.artifacts == {"a.txt": b"1"}


def test_a_session_gets_new_tokens_only():
    engine, _, _ = run([[9, RUN], [END]])
    assert [list(request.token_ids) for request in engine.requests] == [[2, 100, 3], [201, 201, 3]]
    assert len({request.session for request in engine.requests}) == 1


def test_each_turn_has_its_own_seed():
    engine, _, _ = run([[9, RUN], [END]])
    assert [request.seed for request in engine.requests] == [request_seed(0, 0), request_seed(0, 1)]


def test_a_turn_without_an_end_ends_the_episode():
    _, factory, (trajectory,) = run([[9, 9, 9]])
    assert trajectory.finish_reason == "length"
    assert factory.commands == []


def test_turns_are_bounded():
    _, factory, (trajectory,) = run([[9, RUN]] * 4, max_turns=3)
    assert trajectory.finish_reason == "turns"
    assert len(factory.commands) == trajectory.turns == 3


def test_the_context_is_bounded():
    _, _, (trajectory,) = run([[9, RUN]] * 9, limits=AgentLimits(max_action_tokens=2, max_context=12), max_turns=9)
    assert trajectory.finish_reason == "context"
    assert len(trajectory.token_ids) <= 12


def test_a_broken_box_is_no_failure_of_the_policy():
    _, _, (trajectory,) = run([[9, RUN], [END]], Factory(fail_on="9"))
    assert trajectory.error == "RuntimeError: the box is gone"
    assert trajectory.finish_reason == "environment"


def test_an_error_in_one_episode_is_its_own():
    class Stumbling(Chat):
        def command(self, ids):
            if 7 in ids:
                raise ValueError("this turn cannot be read")
            return super().command(ids)

    engine, found = ScriptedEngine([[9, RUN], [END]]), []
    answer = engine._answer
    engine._answer = lambda request: _completion(request, [7, RUN]) if "#1/" in request.id else answer(request)
    specs = [EpisodeSpec(task(), seed, group=seed) for seed in range(3)]
    run_episodes(engine, Stumbling(), Factory(), specs, 3, lambda spec, trajectory: found.append(trajectory))
    errors = {trajectory.group: trajectory.error for trajectory in found}
    assert errors == {0: "ValueError: this turn cannot be read", 1: None, 2: None}


def test_an_error_of_whoever_takes_the_episodes_is_not_hidden():
    def full(spec, trajectory):
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        run_episodes(ScriptedEngine([[END]]), Chat(), Factory(), [EpisodeSpec(task(), 0)], 1, full)


def _completion(request, ids):
    return Completion(request.id, request.session, ids, [-0.1] * len(ids), [1] * len(ids), "stop")


def test_many_episodes_end_and_keep_apart():
    _, _, found = run([[9, RUN], [END]], episodes=9)
    assert sorted(trajectory.group for trajectory in found) == list(range(9))
    assert {tuple(trajectory.token_ids) for trajectory in found} == {(2, 100, 3, 9, RUN, 201, 201, 3, END)}
