"""Which drafted tokens stay (speculative sampling: Leviathan et al., arXiv 2211.17192; Chen et al., 2302.01318)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Verdict(NamedTuple):
    """accepted [N]: drafts that stay. tokens and log_probs [N, n + 1]: those drafts and the token after them; the
    entries behind it mean nothing. Log-probabilities are the network's own, not the draft's."""

    accepted: Tensor
    tokens: Tensor
    log_probs: Tensor


def token_probabilities(logits: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor]:
    """The distribution that is sampled from, and log-probabilities as completions report them, both [N, ..., V].

    logits [N, ..., V]; temperatures [N]: at 0 the first largest logit has probability one, and the log-probabilities
    are those at temperature 1.
    """
    per_row = temperatures.view(-1, *(1,) * (logits.dim() - 1))
    greedy = per_row == 0
    log_probs = torch.log_softmax(logits / torch.where(greedy, 1.0, per_row).to(logits.dtype), dim=-1)
    best = torch.zeros_like(log_probs).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
    return torch.where(greedy, best, log_probs.exp()), log_probs


def draw(probabilities: Tensor, numbers: Tensor) -> Tensor:
    """One token a row by inverting the cumulative distribution: [N, V] (any positive sum), [N] in (0, 1) -> [N]."""
    cumulative = probabilities.double().cumsum(-1)
    total = cumulative[:, -1:]
    below = torch.nextafter(total, torch.zeros_like(total))
    target = torch.minimum(numbers.double()[:, None] * total, below)
    return torch.searchsorted(cumulative, target, right=True)[:, 0]


def verify(
    logits: Tensor,
    temperatures: Tensor,
    drafts: Tensor,
    proposals: Tensor,
    counts: Tensor,
    acceptance: Tensor,
    numbers: Tensor,
) -> Verdict:
    """Accept draft d with probability min(1, p(d) / q(d)); after the first refusal draw from max(0, p - q).

    What comes out is distributed as if every token had been drawn from p, whatever q is.

    Args:
        logits: [N, n + 1, V] of the network behind the last token and behind each draft.
        temperatures: [N]. drafts: [N, n] tokens. counts: [N] how many of them there are.
        proposals: [N, n, V], the distributions q that the drafts were drawn from.
        acceptance: [N, n] and numbers: [N, n + 1], uniform in (0, 1), of which `numbers` draw the last token.
    """
    probabilities, log_probs = token_probabilities(logits, temperatures)
    steps = torch.arange(drafts.shape[1], device=logits.device)
    wanted = probabilities[:, :-1].gather(-1, drafts[..., None])[..., 0]
    proposed = proposals.gather(-1, drafts[..., None])[..., 0]
    stays = (acceptance * proposed < wanted) & (steps < counts[:, None])
    accepted = stays.long().cumprod(1).sum(1)
    last = draw(_behind(probabilities, proposals, accepted, counts), numbers.gather(1, accepted[:, None])[:, 0])
    tokens = torch.cat([drafts, drafts.new_zeros(len(drafts), 1)], dim=1)
    tokens.scatter_(1, accepted[:, None], last[:, None])
    return Verdict(accepted, tokens, log_probs.gather(-1, tokens[..., None])[..., 0])


def _behind(probabilities: Tensor, proposals: Tensor, accepted: Tensor, counts: Tensor) -> Tensor:
    """[N, V]: p behind the accepted drafts, less q where a draft was refused there."""
    rows = torch.arange(len(accepted), device=accepted.device)
    target = probabilities[rows, accepted]
    refused = accepted < counts
    if not refused.any():
        return target
    rest = (target - proposals[rows, accepted.clamp(max=proposals.shape[1] - 1)]).clamp(min=0)
    refused = refused & (rest.sum(-1) > 0)  # by rounding alone: p equals q, and nothing is left
    return torch.where(refused[:, None], rest, target)
