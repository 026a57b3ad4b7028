"""Scoring, monitoring, acting on a decision, and taking labels back."""
