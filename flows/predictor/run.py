"""The process behind `evergreen serve`: it listens, and replaces workers that end or hang.

    python -m flows.predictor.run [--wait]        (in the project's folder; `evergreen up` does it)

All workers accept from one socket, so a worker that dies takes no waiting connection with it. SIGTERM and Ctrl-C stop
all workers after their last answers; SIGHUP replaces them one by one, for another params.yaml or other code.

    .evergreen/predictor/service.json      pids, address, and what each worker tells of itself
"""

import fcntl
import os
import selectors
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flows.predictor.known import read_known
from flows.predictor.processes import Worker
from flows.server.processes import created
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.files import write_json
from tasks.common.params import Params, load_params
from tasks.common.paths import project_root
from tasks.common.private import make_folder, open_private
from tasks.releases.nothing_live import nothing_live
from tasks.releases.store import open_store
from tasks.releases.switches import predictor_dir

TICK = 0.2  # seconds between two looks
WRITE_SECONDS = 10.0  # between two writes of service.json if only counters changed
STOP_SECONDS = 40.0  # for workers to end after SIGTERM
BIND_SECONDS = 10.0  # for the workers of a supervisor that was killed to let go of the port
BACKLOG = 2048
METRICS = "PROMETHEUS_MULTIPROC_DIR"  # where the workers' counters are added up


def serve(
    root: Path, host: str | None = None, port: int | None = None, wait: bool = False, say: Callable[[str], None] = print
) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises EvergreenError if it cannot start.

    host, port: instead of those in params.yaml. wait: for a first model instead of an error.
    """
    params = load_params(root / "params.yaml")
    folder = make_folder(predictor_dir(root))
    lock = open(folder / "service.lock", "w", opener=open_private)  # noqa: SIM115 (held for the life of this process)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise EvergreenError(
            "`evergreen serve` runs already for this checkout: `evergreen status` says where"
        ) from None
    listening = listen(host or params.predictor.host, params.predictor.port if port is None else port)
    service = Supervisor(root, params, listening, say)
    try:
        if service.wait_for_model(wait):
            service.run()
    finally:
        service.stop()
        (folder / "service.json").unlink(missing_ok=True)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises EvergreenError where another program does."""
    deadline = time.monotonic() + BIND_SECONDS
    while True:
        try:
            family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            found = socket.socket(family, kind, proto)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                found.bind(address)
                found.listen(BACKLOG)
            except BaseException:
                found.close()
                raise
            return found
        except OSError as error:
            if time.monotonic() > deadline:
                raise EvergreenError(
                    f"cannot listen at {host} port {port}: {error.strerror}. Set predictor.host and predictor.port in "
                    "params.yaml to an address of this machine and a free port"
                ) from None
            time.sleep(TICK)


class Supervisor:
    """Starts the workers and replaces them."""

    def __init__(self, root: Path, params: Params, listening: socket.socket, say: Callable[[str], None]):
        self.root, self.params, self.say, self._listening = root, params, say, listening
        self._folder = predictor_dir(root)
        host, port = listening.getsockname()[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        self.url = f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"
        self._selector = selectors.DefaultSelector()
        self._workers: list[Worker] = []
        self._leaving: list[Worker] = []  # replaced; they answer their last requests
        self._stopping, self._rolling, self._answered = False, False, False
        self._written, self._written_at = None, 0.0
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._signalled)

    def wait_for_model(self, wait: bool) -> bool:
        """Whether there is a model to answer with. Without `wait`, raises EvergreenError where there is none."""
        while not self._stopping:
            try:
                releases = open_store(self.params.store, self.root)
                found = releases.live() is not None
                why = "" if found else nothing_live(releases)
            except Exception as error:  # the store is away
                found, why = False, str(error)
            if found or read_known(self.root).live is not None:  # workers start with what was live here last
                return True
            if not wait:
                raise EvergreenError(why)
            self._write(waiting="no model is live yet: it starts to answer with the first one")
            time.sleep(self.params.predictor.refresh_seconds)
        return False

    def run(self) -> None:
        """Keep the workers running until a signal."""
        metrics = self._folder / "metrics"
        shutil.rmtree(metrics, ignore_errors=True)
        make_folder(metrics)
        self._workers = [self._start(number) for number in range(self.params.predictor.workers)]
        while not self._stopping:
            for key, _ in self._selector.select(TICK):
                key.data.read()
            for place, worker in enumerate(self._workers):
                self._workers[place] = self._look(worker)
            self._leaving = [one for one in self._leaving if not self._gone(one)]
            if self._rolling:
                self._roll()
            if not self._answered and any(worker.ready for worker in self._workers):
                self._answered = True
                versions = sorted({version for one in self._workers for version in one.versions})
                self.say(f"{', '.join(versions)} answers at {self.url}/predict; Ctrl-C stops it")
            self._write()

    def stop(self) -> None:
        """Let every worker give its last answers, and end it."""
        self._listening.close()
        workers = [*self._workers, *self._leaving]
        for worker in workers:
            worker.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in workers:
            worker.end(max(0.0, deadline - time.monotonic()))

    def _start(self, number: int) -> Worker:
        env = os.environ | {METRICS: str(self._folder / "metrics")}
        worker = Worker(number, self.root, self._listening, env)
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        return worker

    def _look(self, worker: Worker) -> Worker:
        """The worker, or the one that replaces it because it ended or hangs."""
        if worker.again:  # the start of the next one waits
            return self._start_after(worker) if time.monotonic() >= worker.again else worker
        if worker.hangs():
            self.say(f"worker {worker.number} (process {worker.pid}) does not answer: a new one replaces it")
            worker.kill()
        code = worker.ended()
        if code is None:
            return worker
        if not self._answered and all(one.ended() is not None for one in self._workers):
            raise EvergreenError("the service could not start: its workers said why")
        self._forget(worker)
        worker.back_off()
        self.say(f"worker {worker.number} (process {worker.pid}) ended with code {code}: a new one starts")
        return worker

    def _start_after(self, worker: Worker) -> Worker:
        new = self._start(worker.number)
        new.restarts, new.wait = worker.restarts + 1, worker.wait
        return new

    def _roll(self) -> None:
        """Replace one worker after the other: the next one once the new one answers."""
        if any(not worker.ready for worker in self._workers):
            return
        old = next((worker for worker in self._workers if worker.old), None)
        if old is None:
            self._rolling = False
            self.say("all workers are new")
            return
        new = self._start(old.number)
        new.restarts, new.replaces = old.restarts, old
        self._workers[self._workers.index(old)] = new
        self._leaving.append(old)

    def _gone(self, worker: Worker) -> bool:
        """Whether a replaced worker has ended; it is asked to once its successor answers."""
        successor = next((one for one in self._workers if one.replaces is worker), None)
        if successor is None or successor.ready:
            worker.terminate()
        if worker.ended() is None:
            return False
        self._forget(worker)
        return True

    def _forget(self, worker: Worker) -> None:
        self._selector.unregister(worker.output)
        worker.output.close()
        for file in (self._folder / "metrics").glob(f"gauge_live*_{worker.pid}.db"):  # of what is true of it now
            file.unlink(missing_ok=True)

    def _write(self, waiting: str | None = None) -> None:
        about = {
            "pid": os.getpid(),
            "created": created(os.getpid()),
            "checkout": checkout(self.root).id,
            "url": self.url,
            "waiting": waiting,
            "workers": [worker.about() for worker in self._workers],
        }
        lasting = about | {"workers": [one | {"counters": None} for one in about["workers"]]}
        if lasting != self._written or time.monotonic() - self._written_at > WRITE_SECONDS:
            write_json(self._folder / "service.json", about)
            self._written, self._written_at = lasting, time.monotonic()

    def _signalled(self, number: int, _frame) -> None:
        if number != signal.SIGHUP:
            self._stopping = True
        elif not self._rolling:
            self._rolling = True
            for worker in self._workers:
                worker.old = True


if __name__ == "__main__":
    try:
        serve(project_root(), wait="--wait" in sys.argv[1:], say=lambda line: print(line, flush=True))
    except EvergreenError as error:
        sys.exit(f"error: {error}")
