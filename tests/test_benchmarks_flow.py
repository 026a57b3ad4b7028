"""The quick passes of the benchmarks that run the whole flow, so that none rots."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.loop


@pytest.mark.parametrize(("script", "figures"), [("flow", 3), ("commands", 2), ("promotions", 1)])
def test_the_quick_pass_reports_every_figure_and_keeps_none(script, figures):
    kept = sorted((ROOT / "docs" / "benchmarks").glob("*.json"))
    before = [file.read_bytes() for file in kept]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", "--quick"], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert sum("yes" in line or "NO" in line for line in done.stdout.splitlines()) == figures
    assert [file.read_bytes() for file in kept] == before
