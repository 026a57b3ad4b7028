"""Production: the log of answers, drift measures, the decision, pages, the review queue, alerts."""
