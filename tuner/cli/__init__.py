"""The fastface-tuner command."""
