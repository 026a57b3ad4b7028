"""The stages of the pipeline: one module a stage, plain functions, no Prefect."""

import os

# OpenMP threads that spin while they wait make torch 8 times slower on cores that somebody else uses too
# (measured: 25 against 200 images a second); a few microseconds of it make it a fifth faster on idle ones.
# Must be set before the first library loads OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
