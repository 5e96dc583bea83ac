"""The agent's loop: many episodes at once, commands in sandbox boxes, tokens from one decode engine.

One thread owns the engine and every episode's state. Opening a box, running a command and collecting artifacts
happen in a thread pool, so that the engine never waits for a command and a slow episode holds up nobody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from model.engine import Completion, Engine, Request
from tasks.environments.task import Task
from tasks.rl.trajectory import NOT_SAMPLED, Trajectory

RUN, FINISHED = 4, 0  # <|observation|> closes a command, <|endoftext|> ends the episode


class BoxFactory(Protocol):
    """What the loop needs of tasks.sandbox.SandboxFactory."""

    def box(self, files: Mapping[str, str]) -> Any:
        """A fresh box with `files` under /work; it has run(command), collect(globs), close() and isolation."""


class ChatFormat(Protocol):
    """What the loop needs of tasks.environments.chat.Chat."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that close a turn."""

    def prompt(self, instruction: str) -> list[int]:
        """The episode's first tokens."""

    def command(self, ids: Sequence[int]) -> str:
        """The command that a turn's sampled tokens spell."""

    def observation(self, output: str, exit_code: int) -> list[int]:
        """The tokens that follow a command."""


@dataclass(frozen=True)
class EpisodeSpec:
    """One episode to run; equal specs under equal weights sample equal tokens."""

    task: Task
    seed: int
    temperature: float = 1.0
    group: int = 0
    sample: int = 0


@dataclass(frozen=True)
class AgentLimits:
    """Tokens the model may write in a turn (the closing token included) and tokens of a whole episode."""

    max_action_tokens: int = 24
    max_context: int = 1024


@dataclass
class Episode:
    """A running episode: its transcript so far, token by token."""

    spec: EpisodeSpec
    name: str
    box: Future[Any]
    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    turns: int = 0
    failed_commands: int = 0
    finish_reason: str = ""
    isolation: str = ""

    def add_context(self, ids: Sequence[int]) -> None:
        """Tokens the model did not write: prompt and observations."""
        self.token_ids += ids
        self.loss_mask += [0] * len(ids)
        self.log_probs += [0.0] * len(ids)
        self.versions += [NOT_SAMPLED] * len(ids)

    def add_sampled(self, completion: Completion) -> None:
        """The tokens of a turn exactly as they were sampled."""
        self.token_ids += completion.token_ids
        self.loss_mask += [1] * len(completion.token_ids)
        self.log_probs += completion.log_probs
        self.versions += completion.version_of_token

    def trajectory(self, artifacts: Mapping[str, bytes], error: str | None) -> Trajectory:
        """The finished episode."""
        task = self.spec.task
        return Trajectory(
            task.id, task.family, task.seed, task.split, self.spec.group, self.spec.sample, self.token_ids,
            self.loss_mask, self.log_probs, self.versions, dict(artifacts), self.turns, self.failed_commands,
            "environment" if error else self.finish_reason, error, self.isolation,
        )  # fmt: skip


OnFinish = Callable[[EpisodeSpec, Trajectory], None]


class AgentLoop:
    """Drives every added episode to its end; `on_finish` is called in the thread that calls `poll`."""

    def __init__(
        self,
        engine: Engine,
        chat: ChatFormat,
        factory: BoxFactory,
        limits: AgentLimits,
        on_finish: OnFinish,
        workers: int = 4,
    ) -> None:
        self.engine = engine
        self.chat = chat
        self.factory = factory
        self.limits = limits
        self.on_finish = on_finish
        self.sampled_tokens = 0
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="box")
        self._episodes: dict[str, Episode] = {}
        self._pending: dict[Future[Any], Callable[[Any], None]] = {}
        self._owner: dict[Future[Any], str] = {}
        self._answers: SimpleQueue[Future[Any]] = SimpleQueue()
        self._serial = 0

    @property
    def active(self) -> int:
        """Episodes that were added and have not ended."""
        return len(self._episodes)

    def add(self, spec: EpisodeSpec) -> None:
        """Starts an episode: its box opens while the engine reads the prompt."""
        self._serial += 1
        name = f"{spec.task.id}#{self._serial}"
        episode = Episode(spec, name, self._pool.submit(self.factory.box, spec.task.files))
        self._episodes[name] = episode
        self._ask(episode, self.chat.prompt(spec.task.instruction))

    def poll(self) -> None:
        """One turn of the crank: what the boxes answered, then one step of the engine (or a short wait)."""
        for future in self._arrived():
            self._answered(future)
        if self.engine.has_work:
            for completion in self.engine.step():
                episode = self._episodes[completion.session]
                self._guarded(episode, partial(self._sampled, episode, completion))

    def _arrived(self) -> Iterator[Future[Any]]:
        """The answers that are there; with nothing to decode, waits a moment for the first."""
        wait = bool(self._pending) and not self.engine.has_work
        try:
            while True:
                yield self._answers.get(block=wait, timeout=0.05)
                wait = False
        except Empty:
            return

    def close(self) -> None:
        """Abandons what still runs: sessions are released and boxes closed."""
        for future in self._pending:
            future.cancel()
        for episode in self._episodes.values():
            self.engine.release(episode.name)
            self._pool.submit(_close_box, episode.box)
        self._episodes.clear()
        self._pool.shutdown(wait=True)

    def _ask(self, episode: Episode, ids: Sequence[int]) -> None:
        """Appends context and asks the engine for the next turn, or ends the episode where it does not fit."""
        room = self.limits.max_context - self.limits.max_action_tokens
        if len(episode.token_ids) + len(ids) > room:
            self._end(episode, "context")
            return
        episode.add_context(ids)
        seed = request_seed(episode.spec.seed, episode.turns)
        request = Request(
            f"{episode.name}/{episode.turns}", episode.name, list(ids), self.limits.max_action_tokens,
            episode.spec.temperature, seed, self.chat.stop_ids,
        )  # fmt: skip
        self.engine.submit(request)

    def _sampled(self, episode: Episode, completion: Completion) -> None:
        episode.add_sampled(completion)
        self.sampled_tokens += len(completion.token_ids)
        if completion.finish_reason != "stop":
            self._end(episode, "length")
        elif completion.token_ids[-1] != RUN:
            self._end(episode, "stop")
        elif episode.turns >= episode.spec.task.max_turns:
            self._end(episode, "turns")
        else:
            command = self.chat.command(completion.token_ids)
            self._in_pool(episode, lambda: _run(episode.box, command), lambda result: self._observed(episode, *result))

    def _observed(self, episode: Episode, output: str, exit_code: int) -> None:
        episode.turns += 1
        episode.failed_commands += exit_code != 0
        self._ask(episode, self.chat.observation(output, exit_code))

    def _end(self, episode: Episode, reason: str) -> None:
        episode.finish_reason = reason
        self.engine.release(episode.name)
        globs = episode.spec.task.artifacts
        self._in_pool(episode, lambda: _collect(episode.box, globs), lambda found: self._finished(episode, found))

    def _finished(self, episode: Episode, found: tuple[dict[str, bytes], str]) -> None:
        artifacts, episode.isolation = found
        self._hand_over(episode, episode.trajectory(artifacts, None))

    def _hand_over(self, episode: Episode, trajectory: Trajectory) -> None:
        del self._episodes[episode.name]
        self.on_finish(episode.spec, trajectory)

    def _in_pool(self, episode: Episode, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        future = self._pool.submit(work)
        self._pending[future] = then
        self._owner[future] = episode.name
        future.add_done_callback(self._answers.put)

    def _answered(self, future: Future[Any]) -> None:
        then, episode = self._pending.pop(future), self._episodes[self._owner.pop(future)]
        self._guarded(episode, lambda: then(future.result()))

    def _guarded(self, episode: Episode, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as problem:
            if episode.name not in self._episodes:  # it has ended: what failed is whoever took it over
                raise
            self._broken(episode, problem)

    def _broken(self, episode: Episode, problem: Exception) -> None:
        """A box that broke says nothing about the policy: the episode ends without a reward, and it alone."""
        self.engine.release(episode.name)
        self._pool.submit(_close_box, episode.box)
        self._hand_over(episode, episode.trajectory({}, f"{type(problem).__name__}: {problem}"))


def run_episodes(
    engine: Engine,
    chat: ChatFormat,
    factory: BoxFactory,
    episodes: Iterable[EpisodeSpec],
    concurrency: int,
    on_finish: OnFinish,
    limits: AgentLimits | None = None,
) -> None:
    """Runs all episodes, at most `concurrency` at once, and returns when the last has ended."""
    loop = AgentLoop(engine, chat, factory, limits or AgentLimits(), on_finish)
    remaining = iter(episodes)
    exhausted = False
    try:
        while loop.active or not exhausted:
            while loop.active < concurrency and not exhausted:
                spec = next(remaining, None)
                exhausted = spec is None
                if spec is not None:
                    loop.add(spec)
            loop.poll()
    finally:
        loop.close()


def request_seed(episode_seed: int, turn: int) -> int:
    """The sampling seed of a turn: 63 bits, a pure function of its arguments."""
    digest = hashlib.blake2b(f"{episode_seed}/{turn}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _run(box: Future[Any], command: str) -> tuple[str, int]:
    outcome = box.result().run(command)
    return outcome.output, outcome.exit_code


def _collect(box: Future[Any], globs: Sequence[str]) -> tuple[dict[str, bytes], str]:
    opened = box.result()
    try:
        return dict(opened.collect(globs)), str(opened.isolation)
    finally:
        opened.close()


def _close_box(box: Future[Any]) -> None:
    if box.exception() is None:
        box.result().close()
