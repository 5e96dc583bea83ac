"""One episode as it was sampled, and its compact form in the trajectory store.

Token in, token out: `token_ids`, `log_probs` and `versions` are those of sampling; text is never tokenised again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields

import msgpack
import numpy as np

from tasks.rl.errors import RunStopped

FORMAT = 1
_ARRAYS = {"token_ids": "<i4", "loss_mask": "u1", "log_probs": "<f4", "versions": "<i4"}
NOT_SAMPLED = -1  # the version of a token that the model did not write


class TrajectoryError(RunStopped):
    """A trajectory cannot be trained on, or a stored one cannot be read back."""


@dataclass(frozen=True)
class Trajectory:
    """An episode of N tokens; the four lists have N entries, one a token.

    `loss_mask` is 1 where the model wrote the token; there `log_probs` is the natural logarithm at the sampling
    temperature and `versions` the policy that sampled it. Elsewhere they are 0.0 and NOT_SAMPLED.
    """

    task_id: str
    family: str
    task_seed: int
    split: str
    group: int
    sample: int
    token_ids: list[int]
    loss_mask: list[int]
    log_probs: list[float]
    versions: list[int]
    artifacts: dict[str, bytes] = field(default_factory=dict)  # path under /work -> content, for the judge
    turns: int = 0  # commands that ran
    failed_commands: int = 0  # commands that exited with another code than 0
    finish_reason: str = ""  # stop | length | turns | context | environment
    error: str | None = None  # the environment failed: no reward can be given
    isolation: str = ""

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, name)) for name in _ARRAYS}
        if len(lengths) != 1:
            raise TrajectoryError(f"The lists of trajectory {self.task_id!r} differ in length: {sorted(lengths)}.")
        if not np.isfinite(self.log_probs).all():
            raise TrajectoryError(f"Trajectory {self.task_id!r} has log-probabilities that are not finite.")

    @property
    def first_version(self) -> int:
        """w0: the oldest policy that sampled a token of this episode; NOT_SAMPLED if none was sampled."""
        return min(self.sampled_versions, default=NOT_SAMPLED)

    @property
    def sampled_versions(self) -> tuple[int, ...]:
        """The distinct policy versions w0..wk that wrote this episode, oldest first."""
        return tuple(sorted({version for version in self.versions if version != NOT_SAMPLED}))

    @property
    def sampled_tokens(self) -> int:
        """How many tokens the model wrote."""
        return sum(self.loss_mask)


def to_bytes(trajectory: Trajectory) -> bytes:
    """MessagePack with the four lists as little-endian arrays: about 13 bytes a token."""
    record = asdict(trajectory)
    for name, dtype in _ARRAYS.items():
        record[name] = np.asarray(record[name], dtype=np.dtype(dtype)).tobytes()
    return bytes(msgpack.packb({"format": FORMAT, **record}))


def from_bytes(data: bytes) -> Trajectory:
    """Reads what `to_bytes` wrote. Raises TrajectoryError on anything else."""
    try:
        record = msgpack.unpackb(data)
    except (ValueError, msgpack.UnpackException) as error:
        raise TrajectoryError(f"A stored trajectory of {len(data)} bytes is not MessagePack: {error}.") from error
    if not isinstance(record, dict) or record.pop("format", None) != FORMAT:
        raise TrajectoryError(f"A stored trajectory of {len(data)} bytes is not of format {FORMAT}.")
    if set(record) != {entry.name for entry in fields(Trajectory)}:
        raise TrajectoryError(f"A stored trajectory has the wrong fields: {sorted(record)}.")
    try:
        lists = {name: np.frombuffer(record[name], dtype=np.dtype(dtype)).tolist() for name, dtype in _ARRAYS.items()}
    except (ValueError, TypeError) as error:
        raise TrajectoryError(f"A stored trajectory of {len(data)} bytes has a broken list: {error}.") from error
    wrong = [entry.name for entry in fields(Trajectory) if not _fits(entry.type, {**record, **lists}[entry.name])]
    if wrong or not set(lists["loss_mask"]) <= {0, 1} or min(lists["token_ids"], default=0) < 0:
        raise TrajectoryError(f"A stored trajectory has a field that cannot be: {', '.join(wrong) or 'a token'}.")
    return Trajectory(**{**record, **lists})


def _fits(kind: object, value: object) -> bool:
    """Whether a field's value is of the type that `Trajectory` names; lists were read as arrays of numbers."""
    if kind == "dict[str, bytes]":
        return isinstance(value, dict) and all(type(k) is str and type(v) is bytes for k, v in value.items())
    return type(value).__name__ in {"str": ("str",), "int": ("int",), "str | None": ("str", "NoneType")}.get(
        str(kind), ("list",)
    )
