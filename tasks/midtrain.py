"""Stage `midtrain`: longer context, agent trajectories, DSA warm-up, then sparse attention on all of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from model import Transformer
from tasks.cli import program
from tasks.config import Config, parse_arguments
from tasks.curation.shards import read_split
from tasks.environments.chat import Chat, read_tokenizer
from tasks.tracking import provenance
from tasks.training import finish, heldout
from tasks.training.data import CorpusWindows, Source
from tasks.training.indexer import captured_mass
from tasks.training.loop import Run, train
from tasks.training.report import Reporter, reporting
from tasks.training.resume import ResumeState
from tasks.training.retrieval import AdjacentRepeats, RetrievalRow, ScatteredRepeats
from tasks.training.schedule import Phase, tokens_seen
from tasks.training.settings import OptimizerSettings
from tasks.training.trajectories import Trajectories, Transcript, load_transcripts

CORPUS = Path("data/corpus")
DEMONSTRATIONS = Path("data/demonstrations")
BASE = Path("checkpoints/pretrain")
CHECKPOINT = Path("checkpoints/midtrain")
METRICS = Path("metrics/midtrain.json")
INPUTS = (CORPUS, DEMONSTRATIONS, BASE)
HELDOUT_TRANSCRIPTS = 40  # of each family


@dataclass(frozen=True)
class Material:
    """What the stage reads."""

    tokenizer: Tokenizer
    sources: Mapping[str, Source]
    heldout_text: CorpusWindows
    heldout_transcripts: Mapping[str, Sequence[Transcript]]


def phases(config: Config) -> list[Phase]:
    """Longer context, then mostly trajectories, both dense; then DSA: indexer warm-up, sparse on the whole mixture.

    DSA comes last, as in GLM-5 (section 2.1): an indexer that is taught early knows a network that is gone, and
    short rows teach it nothing about distance. The learning rate falls over the last phase.
    """
    section = config.midtrain
    settings = OptimizerSettings.of(section)
    indexer = OptimizerSettings.of_warmup(section)
    mixture, agent = dict(section.mixture), dict(section.agent_mixture)
    size, agent_size = (section.batch, section.context), (section.agent_batch, section.agent_context)
    light = dict.fromkeys(("corpus", "retrieval"), section.other_weight)  # they would drown the few tokens of commands
    plan = [
        Phase("dense", "dense", section.dense_steps, *size, mixture, settings),
        Phase("agent", "dense", section.agent_steps, *agent_size, agent, settings, weights=light),
        Phase("indexer", "warmup", section.indexer_steps, *size, mixture, indexer, train="indexer"),
        Phase("sparse", "sparse", section.sparse_steps, *size, mixture, settings),
    ]
    made = [phase for phase in plan if phase.steps]
    return [*made[:-1], *(replace(phase, decay=section.decay) for phase in made[-1:])]


def read_material(config: Config) -> Material:
    """Corpus, retrieval documents and demonstrations. Raises ShardError or TrainingDataError on bad files."""
    section = config.midtrain
    tokenizer = read_tokenizer(CORPUS / "tokenizer" / "tokenizer.json")
    letters = heldout.single_letters(tokenizer)
    corpus = CorpusWindows(read_split(CORPUS, "train"))
    weights = (section.trajectory_weight, section.other_weight)
    transcripts, kept = load_transcripts(DEMONSTRATIONS, Chat(tokenizer), *weights)
    sources: dict[str, Source] = {
        "corpus": corpus,
        "repeats": AdjacentRepeats(letters),
        "retrieval": ScatteredRepeats(corpus, letters),
        "trajectories": Trajectories(transcripts, section.families),
    }
    return Material(tokenizer, sources, CorpusWindows(read_split(CORPUS, "heldout")), kept)


def midtrain(config: Config, reporter: Reporter) -> dict[str, Any]:
    """Trains from checkpoints/pretrain, writes checkpoints/midtrain and returns the metrics."""
    material = read_material(config)
    lineage = provenance("midtrain", config, INPUTS)
    state = ResumeState("midtrain", lineage)
    plan = phases(config)
    transformer = Transformer.from_pretrained(BASE)
    before = evaluate(transformer, material, config, sparse=False)
    curve = train(transformer, Run("midtrain", plan, material.sources, config.seed, state, reporter.log))
    metrics = evaluate(transformer, material, config, sparse=True)
    metrics["before"] = before
    metrics |= {"steps": len(curve), "tokens": tokens_seen(plan, curve)}
    finish.write_checkpoint(transformer, CHECKPOINT, CORPUS / "tokenizer", lineage, curve)
    metrics |= {"curve": finish.thinned(curve), "seconds": state.seconds()}
    finish.write_metrics(METRICS, metrics)
    state.clear()
    return metrics


def evaluate(transformer: Transformer, material: Material, config: Config, sparse: bool) -> dict[str, Any]:
    """Held-out bits per byte and demonstration loss, retrieval by distance, and what the indexer captures."""
    section = config.midtrain
    mode = "sparse" if sparse else "dense"
    transformer.eval()
    lengths = heldout.token_bytes(material.tokenizer)
    rows = heldout.heldout_windows(material.heldout_text.tokens, section.context, section.heldout_windows)
    documents = retrieval_set(material, section.context, section.retrieval_documents, config.seed)
    retrieval = heldout.retrieval_accuracy(transformer, documents, mode)
    metrics: dict[str, Any] = {
        "heldout_bits_per_byte": heldout.bits_per_byte(transformer, rows, lengths, mode).to_json(),
        "heldout_demonstration_loss": {
            family: heldout.transcript_loss(
                transformer, kept[:HELDOUT_TRANSCRIPTS], mode, section.other_weight
            ).to_json()
            for family, kept in sorted(material.heldout_transcripts.items())
        },
        "retrieval_accuracy": retrieval.pop("all").to_json(),
        "retrieval_chance": heldout.CHANCE,
        "retrieval_accuracy_by_distance": {name: value.to_json() for name, value in retrieval.items()},
    }
    if sparse:
        mass = captured_mass(transformer, [row.row for row in documents[:4]])
        metrics["indexer_captured_mass"] = {"mean": sum(mass) / len(mass), "worst_layer": min(mass), "layers": mass}
    return metrics


def retrieval_set(material: Material, length: int, count: int, seed: int) -> list[RetrievalRow]:
    """Retrieval documents over held-out text, the same before and after."""
    source = ScatteredRepeats(material.heldout_text, heldout.single_letters(material.tokenizer))
    return heldout.retrieval_rows(source, count, length, seed)


@program("midtrain")
def main(argv: Sequence[str] | None = None) -> int:
    """`python -m tasks.midtrain [--set key=value ...]`."""
    config = parse_arguments("midtrain", argv)
    with reporting("midtrain", config, INPUTS) as reporter:
        reporter.summary(midtrain(config, reporter))
    return 0


if __name__ == "__main__":
    sys.exit(main())
