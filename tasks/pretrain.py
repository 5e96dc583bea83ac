"""Stage `pretrain`: next-token prediction at short context with dense attention."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from model import Transformer
from tasks.config import Config, parse_arguments
from tasks.curation.shards import read_split
from tasks.disk import sentence
from tasks.tracking import provenance
from tasks.training import finish, heldout
from tasks.training.data import CorpusWindows, Source
from tasks.training.errors import known_errors
from tasks.training.loop import Run, train
from tasks.training.report import Reporter, reporting
from tasks.training.resume import ResumeState
from tasks.training.retrieval import AdjacentRepeats
from tasks.training.schedule import Phase
from tasks.training.settings import OptimizerSettings

CORPUS = Path("data/corpus")
CHECKPOINT = Path("checkpoints/pretrain")
METRICS = Path("metrics/pretrain.json")


def phases(config: Config) -> list[Phase]:
    """One dense phase; a share of the rows are adjacent repeats, so that copying forms early."""
    section = config.pretrain
    optimizer = OptimizerSettings.of(section)
    mixture = {"corpus": 1.0 - section.repeat_share, "repeats": section.repeat_share}
    return [
        Phase("dense", "dense", section.steps, section.batch, section.context, mixture, optimizer, decay=section.decay)
    ]


def pretrain(config: Config, reporter: Reporter) -> dict[str, object]:
    """Trains, writes checkpoints/pretrain and returns the metrics. Raises as its parts do."""
    tokenizer = Tokenizer.from_file(str(CORPUS / "tokenizer" / "tokenizer.json"))
    lineage = provenance("pretrain", config, [CORPUS])
    plan = phases(config)
    state = ResumeState("pretrain", lineage)
    sources: dict[str, Source] = {
        "corpus": CorpusWindows(read_split(CORPUS, "train")),
        "repeats": AdjacentRepeats(heldout.single_letters(tokenizer)),
    }
    transformer = Transformer(config.model_config())
    transformer.init_weights(config.seed)
    curve = train(transformer, Run("pretrain", plan, sources, config.seed, state, reporter.log))
    metrics = evaluate(transformer, tokenizer, config)
    metrics |= {"steps": plan[0].steps, "tokens": plan[0].steps * plan[0].batch * plan[0].context}
    finish.write_checkpoint(transformer, CHECKPOINT, CORPUS / "tokenizer", lineage, curve)
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


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tasks.pretrain [--set key=value ...]`."""
    try:
        config = parse_arguments("pretrain", argv)
        with reporting("pretrain", config, [CORPUS]) as reporter:
            metrics = pretrain(config, reporter)
            reporter.summary(metrics)
    except known_errors() as error:
        print(sentence(error, "pretrain"), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
