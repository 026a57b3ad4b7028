"""Running an exported model: logits to calibrated probabilities, thresholds, out-of-distribution score."""
