"""Asynchronous reinforcement learning: rollout, judge and learner workers around one trajectory store."""
