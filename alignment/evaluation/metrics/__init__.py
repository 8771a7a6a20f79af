"""Metrics: pure functions of stored predictions. No model, no file, no torch."""
