"""The hard set: what is in it, how people change it, how often it was asked."""
