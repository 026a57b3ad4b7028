"""Evidently's renderings, reports as files, and old addresses."""
