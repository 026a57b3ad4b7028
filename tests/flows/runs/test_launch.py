"""What a run says at its start about the runs before it."""

import os
import signal
import subprocess
import sys

from flows.repo import workspace
from flows.runs.launch import complete_killed_runs
from tests.support.bad_input import hears_ctrl_c


def test_a_run_says_which_earlier_run_did_not_finish_and_that_it_goes_on_from_there(toy):
    _, lock = workspace.create(toy, "run-dead", {})
    os.close(lock)  # as the system does when the process is killed
    said: list[str] = []
    complete_killed_runs(toy, said.append)
    assert said == ["run run-dead did not finish: this run continues from its finished stages"]
    complete_killed_runs(toy, said.append)
    assert len(said) == 1


CHILD = """
import os, signal, sys
from flows.runs.interrupts import merge_interrupts
merge_interrupts()
signal.alarm(60)  # ends, whatever happens to the test
try:
    print("ready", flush=True)
    signal.pause()
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGINT)  # as a terminal sends one, too
    sys.exit(7)
"""
PARENT = """
import subprocess, sys
from flows.runs.launch import _wait
sys.exit(_wait(subprocess.Popen([sys.executable, "-c", sys.argv[1]]), lambda: None))
"""


def test_an_interrupt_of_the_command_alone_reaches_the_run_which_hears_it_once():
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, preexec_fn=hears_ctrl_c) as parent:
        assert parent.stdout.readline() == b"ready\n"
        parent.send_signal(signal.SIGINT)
        assert parent.wait(60) == 7
