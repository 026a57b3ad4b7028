"""Measures of one window against the model's own reference. Numbers only, no decision."""
