"""Measurements anyone can rerun; each script writes docs/benchmarks/<script>.json."""
