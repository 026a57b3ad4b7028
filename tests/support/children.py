"""Functions in processes of their own, with this one's environment; also such that die by SIGKILL at a failpoint."""

import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from benchmarks.kills import SERVER  # its children start in a tenth of the time that a new Python imports DVC in


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


def _run(environment: dict, function: Callable, arguments: tuple) -> None:
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)


def _armed(ending: Connection, point: str, function: Callable, arguments: tuple, named: dict) -> None:
    """Send the exit code of a child that runs it: the fork server may be too late to see how its own children end."""
    if (pid := os.fork()) == 0:
        os.environ["EVERGREEN_FAILPOINT"] = point
        try:
            function(*arguments, **named)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    ending.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
