"""`make demo`: the whole loop on real images."""
