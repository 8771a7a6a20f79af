"""Losses of policies as pure functions, one file per family with its table; reward models: reward/losses.py."""
