"""The page that a judged run leaves."""
