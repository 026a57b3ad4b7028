"""Windows of production: what drifted, why, what followed, and what a person can do about it."""
