"""What every page has: the frame, forms, errors, and who may see it."""
