"""The project's Prefect server: its process, its API, its events."""
