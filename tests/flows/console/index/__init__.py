"""Tests of flows.console.index."""
