"""The work as plain functions, from a source of images to a judged model; no Prefect."""

import os

# OpenMP threads that spin while they wait make torch 8 times slower on cores that another process uses too
# (measured: 25 images a second instead of 200); spinning for a few microseconds makes it a fifth faster on idle cores.
# Both must be set before the first library loads OpenMP.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# Arrow's own allocator keeps what it has freed: with the system's, stage inspect of 20,000 images takes 99 MB at its
# peak instead of 126, in the same CPU time. It must be set before Arrow allocates anything.
os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
