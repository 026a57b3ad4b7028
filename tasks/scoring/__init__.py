"""Targets and metrics as plain arrays."""
