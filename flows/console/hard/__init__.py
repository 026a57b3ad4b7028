"""The page of the hard set, and what people do with its images."""
