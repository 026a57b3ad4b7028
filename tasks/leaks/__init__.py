"""Copies of held-out images in training: candidates by features and look, proof by pixels."""
