"""A test that hangs, or kills its process, is one failure with a name; all others run."""

import os
import subprocess
import sys

from tests.support.checkout import ROOT

CONFTEST = """
from tests.support.files_together import FilesTogether

def pytest_xdist_make_scheduler(config, log):
    return FilesTogether(config, log, {})
"""
DIES = """
import os, pytest

@pytest.mark.parametrize("number", range(4))
def test_dies(number):
    if number == 1:
        os._exit(3)
"""
HANGS = """
import threading

def test_hangs():
    threading.Event().wait()
"""


def test_a_test_that_dies_or_hangs_fails_alone(tmp_path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    for number in range(6):
        (tmp_path / f"test_{number}.py").write_text("def test_passes():\n    pass\n")
    (tmp_path / "test_7_dies.py").write_text(DIES)
    (tmp_path / "test_8_hangs.py").write_text(HANGS)
    settings = ["-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml", "--rootdir", tmp_path]
    limit = ["-o", "faulthandler_timeout=1"]  # as in pyproject.toml, but soon; that the process then ends is set there
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env = {name: value for name, value in env.items() if not name.startswith(("PYTEST", "COV"))}
    command = [sys.executable, "-m", "pytest", "-n", "2", "--no-loadscope-reorder", *settings, *limit, tmp_path]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    assert "2 failed, 9 passed" in done.stdout, done.stdout
    assert "crashed while running 'test_7_dies.py::test_dies[1]'" in done.stdout
    assert "crashed while running 'test_8_hangs.py::test_hangs'" in done.stdout
    assert "in test_hangs" in done.stderr, "where it hung"
