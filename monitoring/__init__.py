"""Production: the log of answers, drift measures, the decision, report pages, the review queue, alerts."""
