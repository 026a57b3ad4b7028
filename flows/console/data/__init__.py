"""The pages of the data: batches, what was refused, uploads."""
