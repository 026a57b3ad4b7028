"""How the command ends, in a process of its own."""

import subprocess
import sys

SCRIPT = """
import atexit, sys
import flows.cli.main as command

def work():
    from joblib import Parallel, delayed
    Parallel(n_jobs=2)(delayed(abs)(-number) for number in range(4))
    atexit.register(print, "exit functions run")
    sys.exit(3)

command.main = work
command.entry()
"""


def test_a_command_that_used_workers_ends_at_once_with_its_code():
    """Workers that nobody lets go wait for more work for minutes, and the command with them."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (3, "exit functions run\n", "")


def test_want_of_memory_while_it_is_said_is_said():
    script = (
        "import flows.cli.main as command\ndef work():\n    raise MemoryError\ncommand.main = work\ncommand.entry()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: out of memory (out_of_memory): ")
