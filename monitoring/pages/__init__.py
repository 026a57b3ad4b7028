"""The report pages and Evidently's history."""
