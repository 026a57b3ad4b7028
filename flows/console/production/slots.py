"""Slots of the jobs that the pages of production start: one job at a time in each."""

LOOK, RETRAIN, ROLLBACK = "monitor", "retrain", "rollback"
