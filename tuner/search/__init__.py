"""Optuna: distributions, samplers and the ledger of a sweep."""
