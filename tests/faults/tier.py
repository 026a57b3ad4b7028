"""How much of the fault tests runs: a sample in `make test`, everything in `make faults`."""

import os

EVERYTHING = os.environ.get("EVERGREEN_FAULTS") == "all"


def sample(few, everything):
    """`few` in `make test`, `everything` in `make faults`."""
    return everything if EVERYTHING else few
