"""Quick passes of the benchmarks that start `evergreen serve` in processes of its own."""

import subprocess
import sys

import pytest

from tests.support.checkout import ROOT
from tests.support.small_project import finished_project


@pytest.mark.parametrize(
    ("script", "figure"), [("serve_load", "serve_efficiency"), ("serve_swap", "swap_failed_requests")]
)
def test_a_quick_pass(script, figure):
    finished_project()
    command = [sys.executable, "-m", f"benchmarks.{script}", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert figure in done.stdout
    assert "not recorded" in done.stdout
