"""Measures of one window against the model's own reference: numbers, no decision."""
