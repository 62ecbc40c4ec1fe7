"""An experiment on rented slices of Cloud TPU, from the request to its end: `gpt-jax launch`."""
