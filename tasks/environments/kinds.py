"""The kinds of one-file shell work: how each is asked for, what it does, how it usually goes wrong.

A kind is data plus one small function on the state of /work (path -> text). The first wrong command is the
*habit*: the mistake an expert of this kind makes most. Kinds whose `slips` factor is above one go wrong by habit
more often than right, so that imitation alone picks the wrong command greedily and reinforcement has work to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

State = dict[str, str]
Slots = Mapping[str, str]  # a source, b destination, c another file, d folder, e ending, k number, w and v words

TO = (" into {b}", " to {b}", " and keep that in {b}")


@dataclass(frozen=True)
class Kind:
    """One kind of work. `recoverable`: the right command still succeeds after the habit."""

    name: str
    heads: tuple[str, ...]
    tails: tuple[str, ...]
    command: str
    effect: Callable[[State, Slots], None]
    wrong: tuple[str, ...]
    slips: float = 1.0  # multiplies the slip rate of demonstrations
    recoverable: bool = True
    misspellable: bool = True


def _lines(state: State, path: str) -> list[str]:
    return state[path].splitlines()


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _filter(transform: Callable[[list[str], Slots], list[str]]) -> Callable[[State, Slots], None]:
    """An effect that writes the transformed lines of {a} to {b}."""

    def effect(state: State, slots: Slots) -> None:
        state[slots["b"]] = _text(transform(_lines(state, slots["a"]), slots))

    return effect


def _copy(state: State, slots: Slots) -> None:
    state[slots["b"]] = state[slots["a"]]


def _rename(state: State, slots: Slots) -> None:
    state[slots["b"]] = state.pop(slots["a"])


def _delete(state: State, slots: Slots) -> None:
    del state[slots["a"]]


def _into_folder(state: State, slots: Slots) -> None:
    state[f"{slots['d']}/{slots['a']}"] = state.pop(slots["a"])


def _join(state: State, slots: Slots) -> None:
    state[slots["b"]] = state[slots["a"]] + state[slots["c"]]


def _replace(state: State, slots: Slots) -> None:
    state[slots["a"]] = state[slots["a"]].replace(slots["w"], slots["v"])


def _append(state: State, slots: Slots) -> None:
    state[slots["a"]] += slots["w"] + "\n"


def _find(state: State, slots: Slots) -> None:
    inside = [path for path in state if path.startswith(slots["d"] + "/") and path.endswith(slots["e"])]
    state[slots["b"]] = _text(inside)


def _merge_neighbours(lines: list[str]) -> list[str]:
    return [line for i, line in enumerate(lines) if i == 0 or line != lines[i - 1]]


KINDS: tuple[Kind, ...] = (
    Kind(
        "copy", ("copy {a}", "make a copy of {a}", "duplicate {a}"), (" to {b}", " as {b}", " into {b}"),
        "cp {a} {b}", _copy, ("mv {a} {b}", "cp {c} {b}"), slips=0.7, recoverable=False,
    ),
    Kind(
        "rename", ("rename {a}", "change the name of {a}", "move {a}"), (" to {b}", " to the name {b}"),
        "mv {a} {b}", _rename, ("cp {a} {b}", "mv {b} {a}"), slips=0.9,
    ),
    Kind(
        "delete", ("delete ", "remove ", "get rid of "), ("{a}", "the file {a}", "the file named {a}"),
        "rm {a}", _delete, ("rm {c}", "rmdir {a}"), slips=0.7, recoverable=False,
    ),
    Kind(
        "folder", ("move {a}", "put {a}", "place {a}"), (" into a new folder {d}", " in a new folder named {d}"),
        "mkdir {d} && mv {a} {d}", _into_folder, ("mv {a} {d}", "mkdir {d} && cp {a} {d}"),
        slips=1.3, recoverable=False, misspellable=False,
    ),
    Kind(
        "head",
        ("put the first {k} lines of {a}", "write the top {k} lines of {a}", "take {k} lines off the start of {a}"),
        TO, "head -n {k} {a} > {b}", _filter(lambda lines, s: lines[: int(s["k"])]),
        ("head -n {k} {a}", "tail -n {k} {a} > {b}"),
    ),
    Kind(
        "tail",
        ("put the last {k} lines of {a}", "write the bottom {k} lines of {a}", "take {k} lines off the end of {a}"),
        TO, "tail -n {k} {a} > {b}", _filter(lambda lines, s: lines[-int(s["k"]) :]),
        ("head -n {k} {a} > {b}", "tail -n {k} {a}"), slips=1.2,
    ),
    Kind(
        "sort", ("sort {a}", "sort the lines of {a}", "order the lines of {a}"), TO,
        "sort {a} > {b}", _filter(lambda lines, s: sorted(lines)), ("sort {a}", "sort -r {a} > {b}"), slips=0.8,
    ),
    Kind(
        "sort_unique",
        ("sort the distinct lines of {a}", "sort {a}, each line once,", "order the different lines of {a}"),
        TO, "sort -u {a} > {b}", _filter(lambda lines, s: sorted(set(lines))),
        ("sort {a} > {b}", "uniq {a} > {b}"), slips=1.4,
    ),
    Kind(
        "count", ("count the lines of {a}", "write the number of lines of {a}", "put the line count of {a}"), TO,
        "wc -l < {a} > {b}", _filter(lambda lines, s: [str(len(lines))]),
        ("wc -l {a} > {b}", "wc -c < {a} > {b}"), slips=1.4,
    ),
    Kind(
        "grep", ("find the lines with {w} in {a}", "take the lines of {a} with {w}", "write the {w} lines of {a}"), TO,
        "grep {w} {a} > {b}", _filter(lambda lines, s: [line for line in lines if s["w"] in line]),
        ("grep {w} {a}", "grep -v {w} {a} > {b}"),
    ),
    Kind(
        "grep_count",
        ("count the lines with {w} in {a}", "write how many lines of {a} have {w}",
         "put the number of {w} lines of {a}"),
        TO, "grep -c {w} {a} > {b}", _filter(lambda lines, s: [str(sum(s["w"] in line for line in lines))]),
        ("grep {w} {a} > {b}", "grep -c {w} {a}"), slips=1.35,
    ),
    Kind(
        "find",
        ("write the path of the {e} file in {d}", "look up the {e} file under {d} and put its path",
         "find the {e} file below {d} and write its path"),
        (" into {b}", " to {b}", " in {b}"), "find {d} -name '*{e}' > {b}", _find,
        ("ls {d} > {b}", "find -name '*{e}' > {b}"), slips=1.2, misspellable=False,
    ),
    Kind(
        "join", ("join {a} and {c}", "put {a} and then {c}", "write {a} followed by {c}"), TO,
        "cat {a} {c} > {b}", _join, ("cat {c} {a} > {b}", "cat {a} {c}"),
    ),
    Kind(
        "replace", ("replace {w} by {v}", "change {w} to {v}", "turn each {w} into {v}"),
        (" in {a}", " in the file {a}", " all over {a}"), "sed -i 's/{w}/{v}/' {a}", _replace,
        ("sed 's/{w}/{v}/' {a}", "sed -i 's/{v}/{w}/' {a}"), slips=1.3,
    ),
    Kind(
        "uniq",
        ("merge equal neighbours of {a}", "drop lines of {a} equal to the one before",
         "write {a} without adjacent repeats"),
        TO, "uniq {a} > {b}", _filter(lambda lines, s: _merge_neighbours(lines)),
        ("sort -u {a} > {b}", "uniq {a}"), slips=1.2,
    ),
    Kind(
        "column", ("put column {k} of {a}", "write word {k} of each line of {a}", "take field {k} of {a}"), TO,
        "cut -d ' ' -f {k} {a} > {b}", _filter(lambda lines, s: [line.split(" ")[int(s["k"]) - 1] for line in lines]),
        ("cut -f {k} {a} > {b}", "cut -d ' ' -f {k} {a}"), slips=1.3,
    ),
    Kind(
        "append", ("append {w}", "add the line {w}", "write {w} as a last line"),
        (" to {a}", " to the end of {a}", " in the file {a}"), "echo {w} >> {a}", _append,
        ("echo {w} > {a}", "echo {w} >> {c}"), slips=0.8, recoverable=False, misspellable=False,
    ),
)  # fmt: skip
BY_NAME: Mapping[str, Kind] = {kind.name: kind for kind in KINDS}
