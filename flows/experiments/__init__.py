"""Experiments: models that are trained and judged, and never published."""
