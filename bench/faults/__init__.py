"""Which per-layer scores find the layer that was damaged: a benchmark for any of them, on whole checkpoints."""
