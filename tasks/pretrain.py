"""Stage `pretrain`: next-token prediction at short context with dense attention."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from model import Transformer
from tasks.cli import program
from tasks.config import Config, parse_arguments
from tasks.curation.shards import read_split
from tasks.environments.chat import OBSERVATION, read_tokenizer
from tasks.tracking import provenance
from tasks.training import finish, heldout
from tasks.training.data import CorpusWindows, Source
from tasks.training.loop import Run, train
from tasks.training.report import Reporter, reporting
from tasks.training.resume import ResumeState
from tasks.training.retrieval import AdjacentRepeats
from tasks.training.schedule import Phase, tokens_seen
from tasks.training.settings import OptimizerSettings

CORPUS = Path("data/corpus")
CHECKPOINT = Path("checkpoints/pretrain")
METRICS = Path("metrics/pretrain.json")


def phases(config: Config) -> list[Phase]:
    """Copying first, from repeated letters alone; then text, with repeats that keep it and widen it to all tokens."""
    section = config.pretrain
    optimizer = OptimizerSettings.of(section)
    repeats = section.repeat_share / 2
    mixture = {"corpus": 1.0 - section.repeat_share, "letters": repeats, "tokens": repeats}
    copying = (section.copy_batch, section.copy_context, {"letters": 1.0}, optimizer)
    text = (section.batch, section.context, mixture, optimizer)
    plan = [
        Phase("copy", "dense", section.copy_steps, *copying, until=section.copy_loss),
        Phase("text", "dense", section.steps, *text, decay=section.decay),
    ]
    return [phase for phase in plan if phase.steps]


def pretrain(config: Config, reporter: Reporter) -> dict[str, object]:
    """Trains, writes checkpoints/pretrain and returns the metrics. Raises as its parts do."""
    tokenizer = read_tokenizer(CORPUS / "tokenizer" / "tokenizer.json")
    lineage = provenance("pretrain", config, [CORPUS])
    plan = phases(config)
    state = ResumeState("pretrain", lineage)
    sources: dict[str, Source] = {
        "corpus": CorpusWindows(read_split(CORPUS, "train")),
        "letters": AdjacentRepeats(heldout.single_letters(tokenizer)),
        "tokens": AdjacentRepeats(np.arange(OBSERVATION + 1, tokenizer.get_vocab_size())),
    }
    transformer = Transformer(config.model_config(), config.seed)
    curve = train(transformer, Run("pretrain", plan, sources, config.seed, state, reporter.log))
    metrics = evaluate(transformer, tokenizer, config)
    metrics |= {"steps": len(curve), "tokens": tokens_seen(plan, curve)}
    finish.write_checkpoint(transformer, CHECKPOINT, CORPUS / "tokenizer", lineage, curve, attention="dense")
    metrics |= {"curve": finish.thinned(curve), "seconds": state.seconds()}
    finish.write_metrics(METRICS, metrics)
    state.clear()
    return metrics


def evaluate(transformer: Transformer, tokenizer: Tokenizer, config: Config) -> dict[str, object]:
    """Held-out bits per byte, next to what single bytes and xz reach on the same text."""
    tokens = read_split(CORPUS, "heldout")
    rows = heldout.heldout_windows(tokens, config.pretrain.context, config.pretrain.heldout_windows)
    transformer.eval()
    found = heldout.bits_per_byte(transformer, rows, heldout.token_bytes(tokenizer), "dense")
    text = heldout.decode_bytes(tokenizer, tokens)
    unigram = heldout.byte_entropy(text)
    return {
        "heldout_bits_per_byte": found.to_json(),
        "unigram_bits_per_byte": {"value": round(unigram, 6), "ci95": [round(unigram, 6)] * 2, "n": len(text)},
        "xz_bits_per_byte": round(heldout.xz_bits_per_byte(text), 6),
        "below_unigram": round(1.0 - found.value / unigram, 6),
    }


@program("pretrain")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tasks.pretrain [--set key=value ...]`."""
    config = parse_arguments("pretrain", argv)
    with reporting("pretrain", config, [CORPUS]) as reporter:
        reporter.summary(pretrain(config, reporter))
    return 0


if __name__ == "__main__":
    sys.exit(main())
