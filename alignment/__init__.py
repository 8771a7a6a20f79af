"""Alignment research framework: SFT, reward models from rankings, preference optimisation, evaluation."""

__version__ = "0.1.0"
