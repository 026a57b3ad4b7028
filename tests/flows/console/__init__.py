"""Tests of flows.console."""
