"""Tests of flows.console.images."""
