"""Production monitoring: capture, drift measures, decisions, reports."""
