"""Who runs when, in which slot, and that nobody notices anybody else."""

import pytest
import torch

from model import Transformer
from model.engine import Completion, Engine, EngineError, Request
from tests.model.engine.conftest import run


def requests(count: int, new: int = 12) -> list[Request]:
    prompts = [[(3 * i + j) % 61 for j in range(2 + 4 * i % 40)] for i in range(count)]
    return [Request(f"r{i}", f"r{i}", prompt, new, seed=i) for i, prompt in enumerate(prompts)]


def same(one: Completion, other: Completion, exact: bool) -> None:
    assert one.token_ids == other.token_ids
    assert one.log_probs == (other.log_probs if exact else pytest.approx(other.log_probs, abs=1e-5))


def test_tokens_do_not_depend_on_the_batch(transformer: Transformer, native: bool) -> None:
    together = run(Engine(transformer, 8, 64, native=native), requests(8))
    crowded: dict[str, Completion] = {}
    engine = Engine(transformer, 3, 64, native=native, prefill_rows=4)
    for request in reversed(requests(8)):
        engine.submit(request)
    while engine.has_work:
        for completion in engine.step():
            crowded[completion.id] = completion
            engine.release(completion.session)
    for request in requests(8):
        alone = run(Engine(transformer, 1, 64, native=native), [request])[request.id]
        same(alone, together[request.id], exact=native)
        same(alone, crowded[request.id], exact=native)


def run_and_release(engine: Engine, request: Request) -> dict[str, Completion]:
    done = run(engine, [request])
    engine.release(request.session)
    return done


def test_two_threads_compute_the_same(transformer: Transformer) -> None:
    one = run(Engine(transformer, 32, 64, native=True, threads=1), requests(30))
    two = run(Engine(transformer, 32, 64, native=True, threads=2), requests(30))
    assert one == two


def test_waiting_requests_get_the_slots_of_released_sessions(transformer: Transformer) -> None:
    engine = Engine(transformer, 2, 64)
    for request in requests(5, new=3):
        engine.submit(request)
    order: list[str] = []
    while len(order) < 5:
        for completion in engine.step():
            order.append(completion.id)
            engine.release(completion.session)
        assert len(engine.sessions.slot_of) <= 2
    assert order == ["r0", "r1", "r2", "r3", "r4"]
    assert not engine.has_work
    assert len(engine.sessions.free) == 2


def test_a_continued_session_does_not_wait_for_a_slot(transformer: Transformer) -> None:
    engine = Engine(transformer, 1, 64)
    run(engine, [Request("first", "held", [1, 2], 3)])
    engine.submit(Request("other", "other", [3], 3))
    engine.submit(Request("second", "held", [4], 3))
    finished = [completion.id for _ in range(3) for completion in engine.step()]
    assert finished == ["second"]
    assert engine.has_work
    engine.release("held")
    assert list(run(engine, [])) == ["other"]


def test_a_reused_slot_leaks_nothing(transformer: Transformer, native: bool) -> None:
    fresh = run(Engine(transformer, 1, 64, native=native), [Request("a", "a", [9, 8, 7], 20, seed=1)])["a"]
    engine = Engine(transformer, 1, 64, native=native)
    run_and_release(engine, Request("before", "before", list(range(40)), 20, seed=2))
    for layer in range(3):
        engine.cache.latent[layer].fill_(1e4)  # whatever a slot held must not matter
        keys = engine.cache.index_keys[layer]
        assert keys is not None
        keys.fill_(1e4)
    same(fresh, run(engine, [Request("a", "a", [9, 8, 7], 20, seed=1)])["a"], exact=True)


def test_stop_ids_end_the_answer_and_stay_in_it(transformer: Transformer) -> None:
    free = run(Engine(transformer, 1, 64), [Request("a", "a", [1, 2], 20, seed=3)])["a"]
    stop = free.token_ids[7]
    first = free.token_ids.index(stop)
    stopped = run(Engine(transformer, 1, 64), [Request("a", "a", [1, 2], 20, seed=3, stop_ids=(60, 59, 58, 57, stop))])
    expected = min(i for i, token in enumerate(free.token_ids) if token in (60, 59, 58, 57, stop))
    assert stopped["a"].token_ids == free.token_ids[: expected + 1]
    assert stopped["a"].finish_reason == "stop"
    assert expected <= first
    assert free.finish_reason == "length"


def test_a_session_ends_with_its_room(transformer: Transformer) -> None:
    engine = Engine(transformer, 1, 16)
    completion = run(engine, [Request("a", "a", [1] * 10, 50)])["a"]
    assert (len(completion.token_ids), completion.finish_reason) == (6, "length")
    full = run(engine, [Request("b", "a", [1], 5)])["b"]
    assert (full.token_ids, full.finish_reason) == ([], "length")
    engine.release("a")
    assert run(engine, [Request("c", "c", [1] * 16, 5)])["c"].finish_reason == "length"
    assert len(run(engine, [Request("d", "d", [1] * 15, 5)])["d"].token_ids) == 1


def test_groups_compute_their_prompt_once_and_sample_as_alone(transformer: Transformer, native: bool) -> None:
    prompt = [(5 * j) % 61 for j in range(30)]
    engine = Engine(transformer, 6, 64, native=native)
    group = [Request(f"g{i}", f"g{i}", [*prompt, i], 10, seed=i) for i in range(6)]
    for request in group:
        engine.submit(request)
    engine.step()
    assert engine.sessions.cached.tolist().count(0) == 5  # five wait for the first
    engine.step()
    assert not engine.prefixes.waits_for
    done = run(engine, [])
    for request in group:
        same(run(Engine(transformer, 1, 64, native=native), [request])[request.id], done[request.id], exact=native)


@pytest.mark.parametrize("when", range(3))
def test_a_group_survives_the_release_of_the_one_it_waits_for(transformer: Transformer, when: int) -> None:
    group = [Request(f"g{i}", f"g{i}", [*range(30), i], 10, seed=i) for i in range(4)]
    engine = Engine(transformer, 4, 64, prefill_rows=8)
    for request in group:
        engine.submit(request)
    for _ in range(when):
        engine.step()
    engine.release("g0")
    done = run(engine, [])
    assert sorted(done) == ["g1", "g2", "g3"]
    for request in group[1:]:
        same(run(Engine(transformer, 1, 64), [request])[request.id], done[request.id], exact=True)


def test_a_swap_during_prefill_keeps_every_request(transformer: Transformer) -> None:
    group = [Request(f"g{i}", f"g{i}", [*range(30), i], 10, seed=i) for i in range(4)]
    engine = Engine(transformer, 3, 64, prefill_rows=8)
    for request in group:
        engine.submit(request)
    for version in range(1, 9):
        engine.step()
        engine.swap_weights(transformer.state_dict(), version)
    done: dict[str, Completion] = {}
    while engine.has_work:
        for completion in engine.step():
            done[completion.id] = completion
            engine.release(completion.session)
    for request in group:
        same(run(Engine(transformer, 1, 64), [request])[request.id], done[request.id], exact=True)


def test_released_sessions_and_their_requests_are_forgotten(transformer: Transformer) -> None:
    engine = Engine(transformer, 1, 64)
    engine.submit(Request("a", "a", [1, 2], 50))
    engine.submit(Request("b", "b", [1, 2], 50))
    engine.step()
    engine.release("a")
    engine.release("b")
    engine.release("never seen")
    assert not engine.has_work
    assert len(run(engine, [Request("a", "a", [1], 3)])["a"].token_ids) == 3


def test_bad_requests_are_refused_by_name(transformer: Transformer) -> None:
    engine = Engine(transformer, 2, 64)
    engine.submit(Request("a", "a", [1], 5))
    for request, words in (
        (Request("b", "a", [1], 5), "'a' already has"),
        (Request("b", "b", [], 5), "without any token"),
        (Request("b", "b", [61], 5), "vocabulary of 61"),
        (Request("b", "b", [1], 5, temperature=float("nan")), "temperature nan"),
    ):
        with pytest.raises(EngineError, match=words):
            engine.submit(request)
    with pytest.raises(EngineError, match="'windowed'"):
        Engine(transformer, 2, 64, mode="windowed")


def test_missing_weights_are_named(transformer: Transformer) -> None:
    weights = {name: tensor for name, tensor in transformer.state_dict().items() if "lm_head" not in name}
    with pytest.raises(EngineError, match=r"lm_head\.weight"):
        Engine(transformer, 2, 64).swap_weights(weights, 1)


def test_training_the_transformer_does_not_touch_the_engine(transformer: Transformer, native: bool) -> None:
    """The learner may change its tensors in place; the engine keeps the weights it was given."""
    engine = Engine(transformer, 1, 64, native=native)
    before = run(engine, [Request("a", "a", [1, 2], 10)])["a"]
    engine.release("a")
    kept = {name: tensor.clone() for name, tensor in transformer.state_dict().items()}
    with torch.no_grad():
        for tensor in transformer.state_dict().values():
            tensor.mul_(-2)
    after = run(engine, [Request("a", "a", [1, 2], 10)])["a"]
    transformer.load_state_dict(kept)
    assert before == after
