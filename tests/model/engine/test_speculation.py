"""Speculative decoding says what plain decoding says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from model import Transformer
from model.engine import Completion, Engine, EngineError, Request
from model.engine.verification import Verdict, draw, verify
from tests.model.engine.conftest import build, run

BOUND = 1e-5


@pytest.fixture(scope="session")
def drafting() -> Transformer:
    return build(0, num_nextn_predict_layers=1)


def requests(count: int, new: int = 17, temperature: float = 0.0) -> list[Request]:
    prompts = [[(3 * i + j) % 61 for j in range(2 + 4 * i % 30)] for i in range(count)]
    return [Request(f"r{i}", f"r{i}", prompt, new, temperature, seed=i) for i, prompt in enumerate(prompts)]


def trainer_log_probs(transformer: Transformer, ids: Sequence[int]) -> list[float]:
    with torch.no_grad():
        return transformer.log_probs(torch.tensor([list(ids)]), mode="sparse")[0].tolist()


def assert_log_probs(transformer: Transformer, before: Sequence[int], completion: Completion) -> None:
    expected = trainer_log_probs(transformer, [*before, *completion.token_ids])[len(before) :]
    assert completion.log_probs == pytest.approx(expected, abs=BOUND, rel=0)


@pytest.mark.parametrize("speculate", [1, 3])
def test_greedy_tokens_are_the_plain_engines(drafting: Transformer, native: bool, speculate: int) -> None:
    plain = run(Engine(drafting, 8, 64, native=native), requests(8))
    engine = Engine(drafting, 8, 64, native=native, speculate=speculate, prefill_rows=6)
    for name, completion in run(engine, requests(8)).items():
        assert completion.token_ids == plain[name].token_ids
        assert completion.log_probs == pytest.approx(plain[name].log_probs, abs=BOUND)
        assert completion.finish_reason == "length"
    assert engine.drafter is not None
    assert engine.drafter.rounds > 0


def test_accepted_drafts_save_steps(drafting: Transformer) -> None:
    """A head that always says the same token: every draft stands, and a step adds three tokens."""
    sure = Transformer(drafting.config)
    sure.load_state_dict(drafting.state_dict())
    with torch.no_grad():
        sure.lm_head.weight.zero_()
    engine, steps = Engine(sure, 1, 64, speculate=2), 0
    engine.submit(Request("a", "a", [1, 2, 3], 31, temperature=0))
    while engine.has_work:
        engine.step()
        steps += 1
    assert steps == 11
    assert engine.drafter is not None
    assert engine.drafter.accept_length == 3.0


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_log_probs_are_the_networks(drafting: Transformer, native: bool, temperature: float) -> None:
    engine = Engine(drafting, 3, 64, native=native, speculate=2)
    for name, completion in run(engine, requests(6, 20, temperature)[:3]).items():
        prompt = next(list(request.token_ids) for request in requests(6) if request.id == name)
        ids = torch.tensor([prompt + completion.token_ids])
        with torch.no_grad():
            logits = drafting(ids, mode="sparse").logits[0, len(prompt) - 1 : -1] / temperature
        expected = logits.log_softmax(-1).gather(1, ids[0, len(prompt) :, None])[:, 0]
        assert completion.log_probs == pytest.approx(expected.tolist(), abs=BOUND, rel=0)


def test_a_request_draws_the_same_in_company_and_alone(drafting: Transformer) -> None:
    crowd = run(Engine(drafting, 8, 64, speculate=2, prefill_rows=5), requests(8, temperature=1.0))
    for request in requests(8, temperature=1.0)[::3]:
        alone = run(Engine(drafting, 1, 64, speculate=2), [request])[request.id]
        assert alone.token_ids == crowd[request.id].token_ids
        assert alone.log_probs == pytest.approx(crowd[request.id].log_probs, abs=BOUND)


def test_turns_groups_and_a_swap_keep_the_log_probs(drafting: Transformer, native: bool) -> None:
    """Prefix reuse in a group, a second turn, and new weights in the middle of both."""
    later = build(9, num_nextn_predict_layers=1)
    engine = Engine(drafting, 3, 96, native=native, speculate=2, prefill_rows=9)
    prompt = list(range(24))
    history = {f"g{i}": [*prompt, i] for i in range(3)}
    for turn, swap_after in enumerate((6, 4)):
        for number, (name, before) in enumerate(history.items()):
            new = before if turn == 0 else [7, 8, 9]
            history[name] = before if turn == 0 else [*before, *new]
            engine.submit(Request(f"{name}{turn}", name, new, 12, seed=31 * turn + number))
        done: dict[str, Completion] = {}
        for step in range(1000):
            if step == swap_after:
                engine.swap_weights((later if turn == 0 else drafting).state_dict(), turn + 1)
            done |= {completion.session: completion for completion in engine.step()}
            if not engine.has_work:
                break
        for name, completion in done.items():
            old = sum(version == turn for version in completion.version_of_token)
            ids = [*history[name], *completion.token_ids]
            first, second = (
                trainer_log_probs(model, ids)[len(history[name]) :] for model in (drafting, later)[:: (1, -1)[turn]]
            )
            assert completion.log_probs == pytest.approx(first[:old] + second[old:], abs=BOUND, rel=0)
            assert 0 < old < 12
            history[name] = ids


def test_a_stop_token_among_the_drafts_ends_the_request(drafting: Transformer) -> None:
    plain = run(Engine(drafting, 1, 64), [Request("a", "a", [1, 2, 3], 30, temperature=0)])["a"]
    stop = plain.token_ids[10]
    cut = plain.token_ids[: plain.token_ids.index(stop) + 1]
    engine = Engine(drafting, 1, 64, speculate=3)
    done = run(engine, [Request("a", "a", [1, 2, 3], 30, temperature=0, stop_ids=[stop])])["a"]
    assert (done.token_ids, done.finish_reason) == (cut, "stop")
    more = run(engine, [Request("b", "a", [], 5, temperature=0)])["b"]
    assert_log_probs(drafting, [1, 2, 3, *cut], more)


def test_a_session_fills_its_room(drafting: Transformer) -> None:
    done = run(Engine(drafting, 2, 20, speculate=3), [Request("a", "a", [1, 2, 3], 99, temperature=0)])["a"]
    assert len(done.token_ids) == 17
    assert_log_probs(drafting, [1, 2, 3], done)


def test_a_network_without_an_mtp_layer_is_refused(transformer: Transformer) -> None:
    with pytest.raises(EngineError, match="no MTP layer"):
        Engine(transformer, 1, 16, speculate=1)
    with pytest.raises(EngineError, match="at least 0"):
        Engine(transformer, 1, 16, speculate=-1)


def test_drafts_are_what_the_mtp_layer_was_trained_to_say(drafting: Transformer, native: bool) -> None:
    """The first draft's distribution behind every token, over several turns of prefill and decoding."""
    engine = Engine(drafting, 1, 64, native=native, speculate=2, prefill_rows=7)
    engine.submit(Request("a", "a", [(5 * j) % 61 for j in range(20)], 30, seed=4))
    drafter, s, checked = engine.drafter, engine.sessions, 0
    assert drafter is not None
    while not engine.step():
        if not drafter.counts[0]:
            continue
        ids = torch.from_numpy(s.tokens[:1, : s.length[0]].copy())
        with torch.no_grad():
            context = drafting._context(ids, None, "sparse", teach=False)
            hidden = drafting.model(ids, context).hidden
            following = drafting.model.embed_tokens(ids.roll(-1, 1))
            state = drafting.mtp.predict(hidden, following, context).hidden[0, -2]
        expected = drafting.lm_head(state).softmax(-1).detach()
        assert torch.allclose(drafter.proposals[0, 0], expected, atol=1e-5)
        checked += 1
    assert checked > 5


def chi_square(counts: np.ndarray, probabilities: np.ndarray) -> float:
    expected = counts.sum() * probabilities
    return float(((counts - expected) ** 2 / expected).sum())


def _verdicts(count: int, logits: Tensor, proposals: Tensor, seed: int) -> Verdict:
    """Drafts of `proposals` [n, V] verified against logits [n + 1, V], `count` times."""
    generator = torch.Generator().manual_seed(seed)
    steps = len(proposals)
    drawn, accept, numbers = (torch.rand(count, n, generator=generator).double() for n in (steps, steps, steps + 1))
    drafts = torch.stack([draw(proposals[i].expand(count, -1), drawn[:, i]) for i in range(steps)], dim=1)
    counts = torch.full((count,), steps)
    logits, proposals = logits.expand(count, -1, -1), proposals.expand(count, -1, -1)
    return verify(logits, torch.ones(count), drafts, proposals, counts, accept, numbers)


def test_verified_tokens_are_distributed_as_the_networks_own() -> None:
    """Whatever the drafts' distribution: near, far, or with tokens that the network hardly ever says."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, generator=generator)
    for spread in (0.0, 0.5, 3.0):
        noise = spread * torch.randn(2, 6, generator=generator)
        proposals = (logits[:2] + noise).softmax(-1)
        verdict = _verdicts(40_000, logits, proposals, 1)
        for place in range(3):
            reached = verdict.accepted >= place
            counts = np.bincount(verdict.tokens[reached, place], minlength=6)
            probabilities = logits[place].softmax(-1).numpy()
            assert chi_square(counts, probabilities) < 26  # 5 degrees of freedom: p is about 1e-4
        overlap = torch.minimum(logits[0].softmax(-1), proposals[0]).sum()
        assert float((verdict.accepted > 0).float().mean()) == pytest.approx(float(overlap), abs=0.012)


@pytest.mark.parametrize("speculate", [0, 2])
def test_the_engine_samples_sequences_as_the_network_does(speculate: int) -> None:
    """All 4^3 answers of three tokens over a vocabulary of four, against their exact probabilities."""
    transformer = build(5, vocab_size=4, num_nextn_predict_layers=1)
    engine, counts = Engine(transformer, 500, 8, native=False, speculate=speculate), np.zeros(64, np.int64)
    for start in range(0, 6000, 500):
        group = [Request(str(i), str(i), [1, 2, 3], 3, seed=i) for i in range(start, start + 500)]
        for completion in run(engine, group).values():
            counts[int(np.dot(completion.token_ids, (16, 4, 1)))] += 1
            engine.release(completion.session)
    answers = torch.cartesian_prod(*[torch.arange(4)] * 3)
    with torch.no_grad():
        log_probs = transformer.log_probs(torch.cat([torch.tensor([1, 2, 3]).expand(64, 3), answers], 1), mode="sparse")
    probabilities = log_probs[:, 3:].sum(1).exp().numpy()
    likely = 6000 * probabilities >= 5
    rest = counts[~likely].sum(), probabilities[~likely].sum()
    pooled = np.append(counts[likely], rest[0]), np.append(probabilities[likely], max(rest[1], 1e-9))
    freedom = likely.sum()
    assert chi_square(*pooled) < freedom + 4 * np.sqrt(2 * freedom) + 8  # p is below 1e-4
    if engine.drafter:
        assert engine.drafter.accept_length > 1.05
