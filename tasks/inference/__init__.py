"""Running an exported model: calibrated probabilities, thresholds, out-of-distribution score."""
