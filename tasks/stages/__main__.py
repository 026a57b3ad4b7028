"""`python -m tasks.stages NAME` runs one stage in the current folder, as dvc.yaml does."""

import sys

from tasks.common.garbage import collect_rarely
from tasks.stages.runner import STAGES, main

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in STAGES:
        sys.exit(f"usage: python -m tasks.stages NAME, where NAME is one of {', '.join(STAGES)}")
    collect_rarely()  # before the stage imports torch
    main(sys.argv[1])
