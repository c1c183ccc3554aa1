"""Learning-rate schedulers as pure functions, and their torch adapters."""
