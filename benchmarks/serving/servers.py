"""`evergreen serve` and its peers, each on the second core of this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.serving.client import closed_loop, multipart, raw
from tests.support.waiting import until

HERE = Path(__file__).parent
CLIENT_CORE, SERVER_CORE = 0, 1


@dataclass
class Running:
    """A service that answers."""

    name: str
    url: str
    make: Callable[[bytes], bytes]  # an image -> a request
    process: psutil.Process

    def requests(self, images: Sequence[bytes]) -> list[bytes]:
        return [self.make(image) for image in images]

    def processes(self) -> list[psutil.Process]:
        """The service's own and their children."""
        found = [self.process]
        try:
            found += self.process.children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return found

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""
        return sum(sum(one.cpu_times()[:2]) for one in self.processes())

    def rss(self) -> int:
        """Bytes of memory of all its processes; shared pages count in each."""
        return sum(one.memory_info().rss for one in self.processes())


def stay_on_the_clients_core() -> None:
    """This process sends the load: it leaves the second core to the server."""
    os.sched_setaffinity(0, {CLIENT_CORE})


@contextmanager
def evergreen(project: Path, token: str, log: Path, core: int | None = SERVER_CORE) -> Iterator[Running]:
    """`evergreen serve` of `project`; core: None for all of them."""
    port = _free_port()
    command = [sys.executable, "-m", "flows.cli", "serve", "--port", str(port)]
    with _running("evergreen serve", command, project, port, raw("/predict", token), log, core) as found:
        yield found


@contextmanager
def fastapi(python: Path, model: Path, log: Path) -> Iterator[Running]:
    """fastapi_peer.py under uvicorn, in the environment of `python`."""
    port = _free_port()
    command = [str(python), "-m", "uvicorn", "--app-dir", str(HERE), "fastapi_peer:app", "--port", str(port)]
    command += ["--log-level", "warning"]
    with _running("FastAPI", command, HERE, port, raw("/predict", None), log, MODEL=str(model)) as found:
        yield found


@contextmanager
def bentoml(python: Path, model: Path, log: Path) -> Iterator[Running]:
    """bento_peer.py under BentoML, in the environment of `python`."""
    port = _free_port()
    command = [str(python), "-m", "bentoml", "serve", "bento_peer:Classifier", "--working-dir", str(HERE)]
    command += ["--port", str(port)]
    more = {"MODEL": str(model), "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(log.parent / "bentoml")}
    with _running("BentoML", command, HERE, port, multipart("/predict", "images"), log, **more) as found:
        yield found


@contextmanager
def _running(
    name: str, command: list[str], folder: Path, port: int, make, log: Path, core: int | None = SERVER_CORE, **more: str
) -> Iterator[Running]:
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"} | more
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command if core is None else ["taskset", "-c", str(core), *command],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        found = Running(name, f"http://127.0.0.1:{port}", make, psutil.Process(process.pid))
        try:
            until(lambda: _listens(port) or process.poll() is not None, 60)
            if process.poll() is not None:
                raise RuntimeError(f"{name} ended: {log.read_text()[-2000:]}")
            yield found
        finally:
            children = found.processes()
            process.terminate()
            _, alive = psutil.wait_procs(children, 15)
            for one in alive:
                one.kill()
            process.wait()


def warm(service: Running, images: Sequence[bytes], seconds: float = 2.0) -> None:
    """Ask until the first answers have come."""
    until(lambda: bool(closed_loop(service.url, service.requests(images), 2, seconds).taken), 60)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def _listens(port: int) -> bool:
    with socket.socket() as found:
        found.settimeout(1)
        return found.connect_ex(("127.0.0.1", port)) == 0
