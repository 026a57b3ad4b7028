"""How a source becomes a batch of the data set, and how a person's images are erased from it."""
