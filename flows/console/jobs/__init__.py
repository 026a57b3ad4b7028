"""Actions that take longer than a second."""
