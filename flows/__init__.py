"""Thin orchestration around `tasks`: the only package that imports Prefect."""
