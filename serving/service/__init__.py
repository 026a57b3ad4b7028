"""The HTTP service around the predictor; flows/predictor/ puts it together for a project."""
