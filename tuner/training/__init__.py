"""One training run: a generator over a complete state."""
