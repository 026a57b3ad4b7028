"""The review queue: what to label next, and the forms in which people answer."""
