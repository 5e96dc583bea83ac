"""What the engine recorded at sampling is what the learner computes, over several turns and a change of weights."""

from types import SimpleNamespace

import pytest
import torch

from model import Transformer
from model.engine import Engine
from tasks.environments.chat import Chat
from tasks.environments.registry import generate
from tasks.rl.agent import AgentLimits, AgentLoop, EpisodeSpec


class TalkingBoxes:
    """Boxes in this process that answer every command with the same line."""

    def box(self, files):
        run = lambda command: SimpleNamespace(output="a line of words\n", exit_code=1)  # noqa: E731
        return SimpleNamespace(run=run, collect=lambda globs: {}, close=lambda: None, isolation="none")


class Commands(Chat):
    """Random weights hardly ever close a turn: here every space closes a command."""

    stop_ids = (4, 0)

    def prompt(self, instruction):
        return super().prompt(instruction)[-40:]


def _play(model, swap_to, checkpoint, episodes=4):
    engine, found = Engine(model, 4, 256, mode="sparse", version=0), []
    chat = Commands.load(str(checkpoint / "tokenizer.json"))
    loop = AgentLoop(engine, chat, TalkingBoxes(), AgentLimits(12, 256), lambda spec, done: found.append(done), 2)
    for seed in range(episodes):
        loop.add(EpisodeSpec(generate("shell", seed, "train"), seed))
    polls = 0
    while loop.active:
        polls += 1
        if polls == 7:
            engine.swap_weights(swap_to.state_dict(), 1)
        loop.poll()
    loop.close()
    return found


@pytest.fixture
def policies(checkpoint):
    torch.set_num_threads(1)
    old, new = Transformer.from_pretrained(checkpoint), Transformer.from_pretrained(checkpoint)
    with torch.no_grad():
        for model in (old, new):
            model.lm_head.weight[4] += 0.6 * model.lm_head.weight.std()  # closes turns now and then
        for parameter in new.parameters():
            parameter += (
                0.05 * parameter.std() * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
            )
    return [old, new]


def test_recorded_log_probs_are_those_of_the_version_that_sampled(policies, checkpoint):
    trajectories = _play(policies[0], policies[1], checkpoint)
    seen = set()
    for trajectory in trajectories:
        ids = torch.tensor([trajectory.token_ids])
        with torch.no_grad():
            expected = [model.log_probs(ids, mode="sparse")[0] for model in policies]
        for place, version in enumerate(trajectory.versions):
            if trajectory.loss_mask[place]:
                seen.add(version)
                assert trajectory.log_probs[place] == pytest.approx(float(expected[version][place]), abs=2e-5)
    assert seen == {0, 1}
