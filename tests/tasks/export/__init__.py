"""Tests of tasks.export."""
