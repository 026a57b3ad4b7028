"""Quick passes of the benchmarks of runs; tests/loop/test_loop.py tests that of `flow`."""

import os
import subprocess
import sys

import pytest

from tests.support.checkout import ROOT

pytestmark = pytest.mark.loop


@pytest.mark.parametrize(
    ("script", "figures"), [("commands", 2), ("promotions", 1), ("startup", 1), ("first_start", 1)]
)
def test_the_quick_pass_reports_every_figure_and_records_none(script, figures):
    quick_pass(script, figures)


def quick_pass(script: str, figures: int, **env: str) -> None:
    kept = sorted((ROOT / "docs" / "benchmarks").glob("*.json"))
    before = [file.read_bytes() for file in kept]
    command = [sys.executable, "-m", f"benchmarks.{script}", "--quick"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum("yes" in line or "NO" in line for line in done.stdout.splitlines()) == figures
    assert [file.read_bytes() for file in kept] == before
