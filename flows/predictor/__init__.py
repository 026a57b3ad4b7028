"""The HTTP predictor of a project: routing, switches, capture, workers."""
