"""Looking inside a model: attention, what each layer would say, and induction heads."""
