"""Preference data: one schema (`record`), its files (`store`), its views (`views`), sources and importers."""
