"""Tests of flows.scale, on a real local cluster."""
