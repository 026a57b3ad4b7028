"""The stages of the pipeline: one module a stage, plain functions, no Prefect."""
