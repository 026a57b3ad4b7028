"""The gate: the challenger against the champion, check by check."""
