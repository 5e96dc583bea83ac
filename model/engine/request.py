"""What goes into the engine and what comes out of it."""

from collections.abc import Sequence
from dataclasses import dataclass


class EngineError(ValueError):
    """A request or a set of weights that the engine cannot serve; the message names it."""

    exit_status = 2  # the person's mistake, as tasks.cli reads it


class NotFinite(RuntimeError):
    """The network's log-probabilities are NaN or infinite: its weights are broken, and nothing can be sampled."""

    exit_status = 1  # the machine's failure, as tasks.cli reads it


@dataclass(frozen=True)
class Request:
    """Append `token_ids` to a session and sample up to `max_new_tokens` more.

    `token_ids` are the new tokens only: what earlier requests of the session appended or sampled stays in its
    cache. `temperature` 0 means greedy. Token i of the answer is drawn with a number that depends on
    `(seed, i)` alone. The token that is in `stop_ids` belongs to the answer and to the session. A request
    whose tokens leave no room to sample in the session ends at once, with no token and the reason "length".
    """

    id: str
    session: str
    token_ids: Sequence[int]
    max_new_tokens: int
    temperature: float = 1.0
    seed: int = 0
    stop_ids: Sequence[int] = ()


@dataclass(frozen=True)
class Completion:
    """The sampled tokens of a request, and what is needed to train on them.

    `log_probs` are natural logarithms under the distribution that was sampled from (logits / temperature; for
    greedy requests at temperature 1). `version_of_token` is the weight version that sampled each token.
    """

    id: str
    session: str
    token_ids: list[int]
    log_probs: list[float]
    version_of_token: list[int]
    finish_reason: str  # "stop": a stop id was sampled; "length": max_new_tokens or the session's room ran out
