"""Functions and commands in processes of their own; also such that die by SIGKILL at a failpoint.

They come from a fork server that has imported DVC and the command line: they start in a tenth of the time that a new
Python needs.
"""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.killing.server import SERVER

SECONDS = 300  # for one command


def start(function: Callable, *arguments) -> BaseProcess:
    """A process that runs `function(*arguments)`; both can be pickled."""
    process = SERVER.Process(target=_run, args=(dict(os.environ), function, arguments))
    process.start()
    return process


def killed_at(point: str, function: Callable, *arguments, **named) -> bool:
    """Was `function(*arguments, **named)` killed by SIGKILL at failpoint `point`? What it raises goes to stderr."""
    here, there = SERVER.Pipe(duplex=False)
    process = start(_armed, there, point, function, arguments, named)
    there.close()
    code = here.recv()
    process.join()
    return code == -signal.SIGKILL


def command(arguments: tuple[str, ...], root: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess:
    """`evergreen ARGUMENTS` in `root` with exactly this environment: its exit code (-9: SIGKILL) and what it said.

    It is the whole command, from its arguments to the end of its process. Only the imports have been done before;
    tests/loop and test_machine_limits.py start new Pythons.
    """
    here, there = SERVER.Pipe(duplex=False)
    with TemporaryDirectory() as folder:
        process = SERVER.Process(target=_commanded, args=(there, arguments, root, dict(environment), Path(folder)))
        process.start()
        there.close()
        pid = here.recv()
        if not here.poll(SECONDS):
            os.kill(pid, signal.SIGKILL)
        code = here.recv()
        process.join()
        said = [(Path(folder) / name).read_text() for name in ("out", "err")]
    return subprocess.CompletedProcess(["evergreen", *arguments], code, *said)


def _run(environment: dict, function: Callable, arguments: tuple) -> None:
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)


def _armed(ending: Connection, point: str, function: Callable, arguments: tuple, named: dict) -> None:
    if (pid := os.fork()) == 0:
        os.environ["EVERGREEN_FAILPOINT"] = point
        try:
            function(*arguments, **named)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    _send_ending(ending, pid)


def _commanded(ending: Connection, arguments: tuple, root: Path, environment: dict, folder: Path) -> None:
    if (pid := os.fork()) == 0:
        try:
            for number, name in ((1, "out"), (2, "err")):
                file = os.open(folder / name, os.O_WRONLY | os.O_CREAT)
                os.dup2(file, number)
                os.close(file)
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(root)
            sys.argv = ["evergreen", *arguments]
            from flows.cli.main import entry

            entry()
        except SystemExit as ended:  # a text as its code
            print(ended.code, file=sys.stderr, flush=True)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(1)
    ending.send(pid)
    _send_ending(ending, pid)


def _send_ending(ending: Connection, pid: int) -> None:
    """Send the exit code of the child `pid`: the fork server may be too late to see how its own children end."""
    ending.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
