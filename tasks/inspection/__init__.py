"""What is in an image or a batch: measures, near-duplicates, annotations."""
