"""The pages of the retraining runs: what they did, how far they are, how to end or repeat one."""
