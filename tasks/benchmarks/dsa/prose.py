"""What docs/dsa.md says beside its tables. Every sentence about a result is made from the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.benchmarks.dsa.arms import ARMS, CONTROL
from tasks.benchmarks.dsa.findings import Curves, Findings
from tasks.benchmarks.dsa.plan import INDEXER, TEACHING_LEAST, TEACHING_SHARE, Plan, rows
from tasks.benchmarks.dsa.results import Case, Target
from tasks.benchmarks.dsa.tables import loss_at, shifted, title

WHAT = {
    CONTROL: "the extra tokens with dense attention.",
    "joint": "the indexer warms up on the base; then backbone and indexer train sparse, as DeepSeek-V3.2 and GLM-5 do.",
    "warmup_only": (
        "the control's weights, an indexer warmed up on them, then sparse. The extra tokens were dense: the backbone "
        "was never adapted to a selection (GLM-5's row `warm-up only`)."
    ),
    "window": "each query sees its last top-k keys; the extra tokens were trained so.",
    "window_untrained": "the control's weights, looking through the window.",
    "random": "the control's weights, each query sees top-k keys at random.",
    "untrained": "the control's weights and an indexer that never learned.",
    "wrong_rope": "the joint arm's weights; the indexer pairs rotary dimensions j and j + d/2, not 2j and 2j + 1.",
    "no_query_norm": "the joint arm's weights; index queries are made of the latent before its RMSNorm.",
}
MASS = (
    "A query's oracle takes the top-k visible keys with the most attention, averaged over heads; captured is the share "
    "of the oracle's mass on the keys that were selected, over queries that see more than top-k keys. The layer's "
    "input is the dense network's for warm-up, else that of the network running with its selection.\n\n"
)
LOSS = (
    "Nats of the arm over nats of the control, on the same documents. A random string carries no loss where it first "
    "occurs. 1.0000 is the control.\n\n"
)
RETRIEVAL = (
    "Share of the tokens of a string's second occurrence, from its fifth, that are the network's first guess (chance "
    "1/26), by the distance to the first occurrence.\n\n"
)
MISTAKES = (
    "Index scores grow in proportion to a query, so the size that the RMSNorm takes away cannot change which keys a "
    "trained indexer ranks first; without the norm only the gains it learned for each dimension are missing. In "
    "training the size does change the softmax: the table has the attention mass that the first seed's indexer "
    "captures when it had such queries throughout its warm-up, of as many steps and the same tokens.\n\n"
)
CURVES = (
    "All curves go on from the same network, one row a step on the same data at an even learning rate. DSA has the "
    "smaller indexer of `params.yaml` here, since one as large as above costs more at this width than the attention it "
    "saves; its curve begins when that has had a warm-up of its own, shorter than the one above, and is charged for it "
    "(dotted: as if it had been free, as it nearly is in a long training). Seconds are of the CPU; FLOPs are those of "
    "matrix products, counted by `tasks/benchmarks/dsa/flops.py`: the trained part three times its forward pass, the "
    "selection once, the rows that teach the indexer as often as they are computed.\n\n"
)


def quick(plan: Plan) -> str:
    """What the curve's warm-up is."""
    scale = plan.scale
    return (
        f"That warm-up is {scale.curve_warmup_steps} steps of one row; there and in the sparse training behind it "
        f"{scale.curve_rows} query rows teach.\n\n"
    )


def introduction(findings: Findings) -> str:
    """How the arms were made and on what they are scored."""
    return f"{_origin(findings)}\n\n{_training(findings)}\n\n{_arms()}\n{_heldout(findings)}\n"


def _origin(findings: Findings) -> str:
    seeds = "; ".join(f"length {n}: {_listed(findings.results.seeds(n))}" for n in findings.lengths)
    return (
        f"Written by `make evidence-dsa`; all parts together took {findings.cpu_seconds / 60:.0f} minutes of CPU. "
        f"Seeds: {seeds}. The network is that of `params.yaml` without its MTP layer, which no selection concerns, "
        f"and with a larger indexer: {INDEXER['index_n_heads']} heads of {INDEXER['index_head_dim']} dimensions."
    )


def _training(findings: Findings) -> str:
    plan, scale, length = findings.plan, findings.plan.scale, findings.lengths[0]
    bases = "; ".join(f"{k}: {', '.join(f'{a:.3f}' for a in v)}" for k, v in findings.retrieval_before.items())
    return (
        "One base a seed: repeated letters until copying has formed, text at short context, then dense training at the "
        f"full length with strings that come again far away, in rounds of {scale.long_steps} steps until held-out "
        f"accuracy is {plan.good_retrieval:g} or {scale.long_rounds} rounds are over. Accuracy after each round (seed, "
        f"length): {bases}. Every arm then gets the same {scale.extra_steps} steps of "
        f"{rows(scale.extra_tokens, length)} x {length} tokens, or as many in fewer rows at greater lengths: the same "
        f"data in the same order. Indexer warm-up is {scale.warmup_steps} steps of {scale.warmup_tokens} tokens beside "
        f"that, with Muon on the indexer's matrices; one query row in {TEACHING_SHARE} of a sequence teaches, at least "
        f"{TEACHING_LEAST}. It leaves the backbone bit for bit as it is."
    )


def _arms() -> str:
    return "".join(f"- **{arm.title}**: {WHAT[name]}\n" for name, arm in ARMS.items())


def _heldout(findings: Findings) -> str:
    scale, length = findings.plan.scale, findings.lengths[0]
    return (
        f"Held-out sets, the same under every seed: {rows(scale.document_tokens, length)} documents of {length} tokens "
        f"of held-out text in which random strings come again, and {rows(scale.text_tokens, length)} windows of "
        "held-out text as it is. Intervals are 95 % bootstrap intervals that draw whole documents."
    )


def _listed(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values)


def verdict(found: Mapping[Case, Sequence[Target]]) -> str:
    """How many targets were met, and which were not."""
    missed = [(case, target) for case, items in found.items() for target in items if not target.met]
    count = sum(len(items) for items in found.values())
    if not missed:
        return f"All {count} are met.\n"
    listed = "; ".join(f"{t.text} at {title(c)} ({t.value:.4f} for {t.bound:g})" for c, t in missed)
    return f"{count - len(missed)} of {count} are met. Missed: {listed}.\n"


def winner(curves: Curves, unit: str, free: bool) -> str:
    """Where each DSA curve lies below the dense one, over the compute that both reached."""
    moved = {name: shifted(points) if free else list(points) for name, points in curves.items()}
    dense = moved.pop("dense")
    return " ".join(_comparison(name, points, dense, unit) for name, points in moved.items()) + "\n"


def _comparison(
    name: str, points: Sequence[Mapping[str, float]], dense: Sequence[Mapping[str, float]], unit: str
) -> str:
    gaps = [(p["loss"] - base) for p in points if (base := loss_at(dense, unit, p[unit])) is not None]
    if not gaps:
        return f"{name} begins where the dense curve has ended: nothing can be compared."
    below = sum(gap < 0 for gap in gaps)
    return (
        f"{name} lies below the dense curve at {below} of its {len(gaps)} points within the dense curve's reach; at "
        f"the last of them by {-gaps[-1]:+.4f} nats."
    )
