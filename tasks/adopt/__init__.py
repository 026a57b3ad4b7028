"""A model trained elsewhere becomes a bundle."""
