"""What is in an image or a batch: measures and near-duplicates."""
