"""Run a peer's module as a user runs it: `python -m benchmarks.loops.as_user MODULE ARGUMENT ...`.

A user installs a torchvision that fits torch. Where it does not, the operators that it lacks are declared first.
"""

import runpy
import sys

from tasks.backbones.torchvision_ops import make_timm_importable

if __name__ == "__main__":
    make_timm_importable()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
