"""Stage `clean`: out-of-fold label errors, and what is done about each."""
