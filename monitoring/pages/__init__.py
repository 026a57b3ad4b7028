"""Report pages, their web server, and snapshots for Evidently's UI."""
