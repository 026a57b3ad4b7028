"""Labelling in the browser: queues, one image after the other, and one suggested class together."""
