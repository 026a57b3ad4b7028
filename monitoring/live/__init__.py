"""Live accuracy: how often the answers were right, from labels that came late."""
