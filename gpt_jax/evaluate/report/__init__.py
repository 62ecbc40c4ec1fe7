"""One page that compares evaluations: `gpt-jax report`."""
