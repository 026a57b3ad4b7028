"""A retraining run: start, process, Prefect flow, lease, single flight."""
