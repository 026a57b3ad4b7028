"""Versions and the runs that made them: what was decided, what waits for approval, what differs."""
