"""Benchmarks: held-out agentic tasks, language modelling, retrieval and HumanEval, each with an interval."""
