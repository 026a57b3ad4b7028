"""Malformed images of every kind are caught, and odd but valid ones are taken, in the benchmark's quick pass."""

import subprocess
import sys

from benchmarks.odd_image_makers import KINDS
from benchmarks.scratch import ROOT


def test_malformed_images_are_caught_and_odd_ones_are_taken():
    assert len(KINDS) == 40
    # in a process of its own: a child's peak of memory begins with what its parent had
    command = [sys.executable, "-m", "benchmarks.odd_images", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    lines = [line for line in done.stdout.splitlines() if "malformed_uncaught" in line or "valid_refused_rate" in line]
    assert len(lines) == 2, done.stderr[-2000:]
    assert all(" yes " in line for line in lines), done.stdout
