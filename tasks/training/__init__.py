"""Training: a DeepSpeed engine, data as a function of the step, resume state, phases."""
