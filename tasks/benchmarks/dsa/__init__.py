"""The parts of `python -m tasks.benchmarks.dsa_evidence`: selections, training, scores, the page."""
