"""Classifiers for long-tailed data on fixed features, one module per family of methods."""
