"""Judging, publishing, approving, rolling back and adopting models."""
