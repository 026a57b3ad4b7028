"""Git, DVC's cache and remotes, the pipeline, and one workspace per run."""
