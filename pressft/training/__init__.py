"""Training: packed blocks, the loop, checkpoints."""
