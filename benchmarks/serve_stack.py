"""Which stack costs least per image: Starlette as `evergreen serve` uses it, plain FastAPI, or LitServe?

    python -m benchmarks.serve_stack PEERS_PYTHON [BUNDLE] [--quick]

The same model and the same decoding behind three servers, each with one thread of ONNX Runtime. Eight clients send JSON
with base64, which all three take. Each round asks the servers in turn. The measure is images per CPU second of the
server's processes, over that of a bare loop of decode, resize and ONNX Runtime in the same round: it hardly depends on
what else the machine does. PEERS_PYTHON: the interpreter of an environment with litserve, fastapi, uvicorn,
onnxruntime, pillow and numpy; "-" measures without the peers. BUNDLE: a bundle's folder; by default a small model is
trained.
"""

import base64
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import httpx
import numpy as np
import psutil

from benchmarks.capture import photos
from benchmarks.record import Figure, report
from benchmarks.scratch import ROOT
from tasks.dataset.decode import preprocess
from tasks.inference.onnx_model import OnnxModel
from tasks.releases import bundle as bundles
from tests.support.small_project import finished_project
from tests.support.waiting import until

CLIENTS = 8
OWN = """
import sys, uvicorn
from serving.live import Model
from serving.predictor import Predictor
from serving.service.app import create_app
from serving.service.settings import Settings
from tests.support.service import OneModel
class Nothing:
    def record(self, asked, answered): pass
app = create_app(OneModel(Model(Predictor(sys.argv[2]), "v0.1.0")), Nothing(), Settings(cache_bytes=0))
uvicorn.run(app, port=int(sys.argv[1]), log_level="error", http="httptools", loop="uvloop", access_log=False)
"""


@contextmanager
def server(command: list[str], port: int) -> Iterator[psutil.Process]:
    """The process of a server that answers on `port`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        until(lambda: answers(port) or process.poll() is not None, 120)
        assert process.poll() is None, f"{command[:3]} ended with {process.returncode}"
        yield psutil.Process(process.pid)
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        process.terminate()
        process.wait(30)
        for child in children:  # LitServe's workers outlive it
            if child.is_running():
                child.kill()


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code in (200, 404)
    except httpx.HTTPError:
        return False


def cpu(process: psutil.Process) -> float:
    """CPU seconds of a process and its children so far."""
    times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
    return sum(one.user + one.system for one in times)


def ask(client: httpx.Client, bodies: list[dict], count: int) -> list[float]:
    """Seconds of each of `count` requests from CLIENTS at once."""

    def one(body: dict) -> float:
        began = time.perf_counter()
        client.post("/predict", json=body).raise_for_status()
        return time.perf_counter() - began

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(one, islice(cycle(bodies), count)))


def bare(model: OnnxModel, spec: dict, images: list[bytes], count: int) -> float:
    """Images per CPU second of a loop without a server."""
    began = time.process_time()
    for image in islice(cycle(images), count):
        model(preprocess(image, spec["resolution"], spec["fit"], spec["max_pixels"])[None])
    return count / (time.process_time() - began)


def run(peers: str, folder: Path, quick: bool) -> list[Figure]:
    spec = bundles.read(folder)["preprocess"]
    images = photos(10)
    bodies = [{"image": base64.b64encode(image).decode()} for image in images]
    rounds, count = (1, 24) if quick else (3, 150)
    commands = {"evergreen": [sys.executable, "-c", OWN, "{port}", str(folder)]}
    about = [str(folder / "model.onnx"), str(spec["resolution"]), spec["fit"]]
    for name in () if peers == "-" else ("fastapi", "litserve"):
        commands[name] = [peers, "benchmarks/serve_stack_peers.py", name, "{port}", *about]
    model = OnnxModel(folder / "model.onnx")
    shares, p50 = {name: [] for name in commands}, {name: [] for name in commands}
    for _ in range(rounds):
        alone = bare(model, spec, images, count)
        for name, command in commands.items():
            port = free_port()
            client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
            with server([one.replace("{port}", str(port)) for one in command], port) as process, client:
                ask(client, bodies, 8)
                before = cpu(process)
                seconds = ask(client, bodies, count)
                shares[name].append(count / (cpu(process) - before) / alone)
                p50[name].append(1e3 * float(np.median(seconds)))
    waits = {name: f"p50 {np.median(found):.1f} ms at {CLIENTS} clients" for name, found in p50.items()}
    return [
        Figure(
            name=f"serve_stack_{name}",
            value=float(np.median(found)),
            unit="of a bare loop's images per CPU second",
            goal=0.7 if name == "evergreen" else None,
            better="higher",
            peer="decode, resize, ONNX Runtime in a loop",
            seeds=rounds,
            spread=f"min {min(found):.2f}, max {max(found):.2f}; {waits[name]}",
        )
        for name, found in shares.items()
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main(arguments: list[str]) -> None:
    quick = "--quick" in arguments
    peers, *given = [one for one in arguments if not one.startswith("--")]
    folder = Path(given[0]) if given else finished_project() / "artifacts/bundle"
    command = "python -m benchmarks.serve_stack PEERS_PYTHON"
    report("serve_stack", command, run(peers, folder, quick), quick)


if __name__ == "__main__":
    main(sys.argv[1:])
