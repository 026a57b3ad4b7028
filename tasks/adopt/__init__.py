"""Turn a model that was trained elsewhere into a bundle."""
