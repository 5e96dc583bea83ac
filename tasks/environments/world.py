"""Start states for shell work, the checks that grade a final state, and plausible slips in a command."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping

from tasks.environments.kinds import Kind, State
from tasks.environments.task import Split, Task
from tasks.environments.words import CONTENT, ENDINGS, FOLDERS, STEMS, draw_pair, is_heldout_pair

MISSPELT = 0.2  # share of slips that are a misspelt name: the error is seen and repaired
HABIT = 0.65  # share of the other slips that are the kind's habit
NOTICED = 0.2  # share of silent mistakes the expert notices and repairs


def draw_lines(rng: random.Random) -> list[str]:
    """Five or six two-word lines: unsorted, one adjacent repeat, one distant repeat, so that every kind matters."""
    words = rng.sample(CONTENT, 8)
    distinct = [f"{words[2 * i]} {words[2 * i + 1]}" for i in range(rng.choice((3, 4)))]
    if distinct[0] < distinct[1]:
        distinct[0], distinct[1] = distinct[1], distinct[0]
    place = rng.randrange(len(distinct))
    lines = distinct[: place + 1] + distinct[place:]
    return [*lines, distinct[rng.randrange(len(distinct) - 1)]]


def draw_world(rng: random.Random, split: Split) -> tuple[State, dict[str, str]]:
    """Two to five files and the slots a kind may use; the pair of names (a, b) belongs to the split."""
    first, second = draw_pair(rng, split)
    others = [stem for stem in rng.sample(STEMS, 5) if stem not in (first, second)]
    endings = [rng.choice(ENDINGS) for _ in range(5)]
    names = [stem + ending for stem, ending in zip([first, *others], endings, strict=False)][: rng.choice((2, 2, 3))]
    state = {name: "".join(f"{line}\n" for line in draw_lines(rng)) for name in names}
    line = rng.choice(state[names[0]].split("\n")[:-1])
    fresh = rng.choice([word for word in CONTENT if word not in state[names[0]]])
    slots = {"a": names[0], "b": second + endings[4], "c": names[1], "d": rng.choice(FOLDERS), "e": rng.choice(ENDINGS)}
    return state, {**slots, "k": str(rng.choice((2, 3))), "w": rng.choice(line.split()), "v": fresh}


def fit_world(kind: Kind, rng: random.Random, state: State, slots: dict[str, str]) -> None:
    """What single kinds need beyond the common world: a filled folder, a column that exists, a word to add."""
    if kind.name == "find":
        endings = [slots["e"], *rng.sample([ending for ending in ENDINGS if ending != slots["e"]], 2)]
        for stem, ending in zip(rng.sample(STEMS, 3), endings[: rng.choice((2, 3))], strict=False):
            state[f"{slots['d']}/{stem}{ending}"] = rng.choice(CONTENT) + "\n"
    if kind.name == "column":
        slots["k"] = rng.choice("12")
    if kind.name == "append":
        slots["w"] = slots["v"]


def state_tests(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """(tests, artifacts) that accept exactly the final state `after` on every path named before or after."""
    gone = sorted(set(before) - set(after))
    digests = "".join(f"{digest(text)}  {path}\n" for path, text in sorted(after.items()))
    checks = ["check state sha256sum --status -c /tests/checksums"]
    checks += [f"check gone_{i} test ! -e {path}" for i, path in enumerate(gone)]
    tests = {"test.sh": "\n".join(checks) + "\n", "checksums": digests}
    return tests, tuple(sorted({*before, *after}))


def solved(task: Task, state: Mapping[str, str]) -> bool:
    """Whether a final state is the one the tests accept; for demonstrations, whose commands are our own."""
    lines = (line.split("  ", 1) for line in task.tests["checksums"].splitlines())
    wanted = {path: sha256 for sha256, path in lines}
    named = {path: digest(text) for path, text in state.items() if path in task.artifacts}
    return named == wanted


def digest(text: str) -> str:
    """SHA-256 of the text, as `sha256sum` prints it."""
    return hashlib.sha256(text.encode()).hexdigest()


def slip(kind: Kind, slots: Mapping[str, str], rng: random.Random) -> list[str]:
    """The commands of an expert who makes one mistake: seen and repaired, or not."""
    right = kind.command.format(**slots)
    if kind.misspellable and rng.random() < MISSPELT:
        return [kind.command.format(**{**slots, "a": misspell(slots["a"], rng)}), right]
    wrong = kind.wrong[0 if rng.random() < HABIT else 1].format(**slots)
    noticed = kind.recoverable and rng.random() < NOTICED
    return [wrong, right] if noticed else [wrong]


def misspell(path: str, rng: random.Random) -> str:
    """The path with one letter of its file name missing."""
    start = path.rfind("/") + 1
    place = start + rng.randrange(path.index(".") - start)
    return path[:place] + path[place + 1 :]


def names_are_heldout(slots: Mapping[str, str]) -> bool:
    """Whether the pair of names in these slots is one that the train split never holds."""
    first, second = (slots[key].rsplit("/", 1)[-1].split(".")[0] for key in "ab")
    return is_heldout_pair(first, second)
