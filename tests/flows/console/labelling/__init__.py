"""Tests of flows.console.labelling."""
