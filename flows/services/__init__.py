"""What `evergreen up` runs: supervisor, deployments, web pages, webhook, housekeeping."""
