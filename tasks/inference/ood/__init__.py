"""Out-of-distribution scores: how unfamiliar an image is to the model, from its features and logits."""
