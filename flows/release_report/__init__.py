"""The release report: one HTML page about a judged run."""
