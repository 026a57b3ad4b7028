"""A quick pass of the console's benchmark, and what it counts."""

import subprocess
import sys

from benchmarks.console import _Page, kind_of
from benchmarks.scratch import ROOT


def test_a_quick_pass_of_the_console(tmp_path):
    command = [sys.executable, "-m", "benchmarks.console", "--quick"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "console_facets_p95_ms" in done.stdout
    assert "/images/*/like" in done.stdout, "links of pages were followed"
    assert "not recorded" in done.stdout


def test_kinds_of_pages_and_their_elements():
    assert kind_of("/images/0123abc/like", "") == "/images/*/like"
    assert kind_of("/images", "view=map&source=a") == "/images?map"
    assert kind_of("/images", "after=3") == "/images"
    page = _Page('<main><a href="/x">x</a><a href="#y">y</a><p hx-get="/z"><br></main><link href="/style.css">')
    assert (page.nodes, page.links) == (6, ["/x", "/z"])
