"""The nine stages that dvc.yaml lists; `python -m tasks.stages NAME` runs one."""
