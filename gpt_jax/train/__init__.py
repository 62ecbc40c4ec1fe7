"""The training loop and what it is made of: loss, optimizer, state, step, checkpoints, metrics."""
