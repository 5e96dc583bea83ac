"""The parts of `python -m tasks.benchmarks.context_cost`: what is measured, one cell of it, the fits, the page."""
