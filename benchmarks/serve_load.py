"""How fast is `evergreen serve`, beside the same model behind BentoML and behind plain FastAPI?

    python -m benchmarks.serve_load --peers PYTHON [--seconds 20] [--quick]

PYTHON: of an environment with bentoml, fastapi, uvicorn[standard], onnxruntime and pillow. The load comes from one
core, the service has the other. Every service gets the same images over kept connections, each image more than once
but with the cache of answers off. Photos of 640 pixels for lite0 at 224 pixels, the images of the demo for its model.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from benchmarks.record import Figure, report
from benchmarks.serving import projects, servers
from benchmarks.serving.client import Times, closed_loop
from benchmarks.serving.servers import Running
from tasks.common.checkout import checkout

CLIENTS = (1, 8, 64)
ROUNDS = 3
Loads = dict[int, list[Times]]  # clients -> rounds


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--peers", type=Path)
    asked.add_argument("--seconds", type=float, default=15.0)
    asked.add_argument("--quick", action="store_true")
    options = asked.parse_args()
    servers.stay_on_the_clients_core()
    figures = []
    for name, size in {"a small model": projects.SMALL}.items() if options.quick else projects.MODELS.items():
        with tempfile.TemporaryDirectory() as folder:
            figures += measure(Path(folder), name, size, options)
    if not options.quick:
        for goal, better in (("serve_throughput_ratio", min), ("serve_efficiency", min), ("claim_serve_p50_ms", max)):
            found = [figure for figure in figures if figure.name.startswith(goal)]
            worst = better(found, key=lambda figure: figure.value)
            figures.insert(
                0, worst.model_copy(update={"name": goal, "spread": f"the worse of {len(found)}: {worst.name}"})
            )
    report("serve_load", "python -m benchmarks.serve_load --peers PYTHON", figures, options.quick)


def measure(folder: Path, name: str, size: int, options) -> list[Figure]:
    """The figures of one model."""
    main = projects.make(folder, size, **projects.ONE_WORKER)
    images = projects.images(size, 40 if options.quick else 200)
    seconds = 1.0 if options.quick else options.seconds
    model = main / "artifacts/bundle/model.onnx"
    services: dict[str, Callable[[], AbstractContextManager[Running]]] = {
        "evergreen": lambda: servers.evergreen(main, checkout(main).secret, folder / "serve.log")
    }
    if options.peers:
        services["FastAPI"] = lambda: servers.fastapi(options.peers, model, folder / "fastapi.log")
        services["BentoML"] = lambda: servers.bentoml(options.peers, model, folder / "bentoml.log")
    loads: dict[str, Loads] = {one: {clients: [] for clients in CLIENTS} for one in services}
    efficiency = []
    for _ in range(1 if options.quick else ROUNDS):
        for one, start in services.items():
            with start() as service:
                servers.warm(service, images)
                for clients in CLIENTS:
                    before = service.cpu_seconds()
                    times = closed_loop(service.url, service.requests(images), clients, seconds)
                    loads[one][clients].append(times)
                    if one == "evergreen" and clients == CLIENTS[-1]:
                        spent = service.cpu_seconds() - before
                        efficiency.append(len(times.taken) / spent / bare(folder, main, images, seconds))
    return list(figures_of(name, loads, efficiency))


def bare(folder: Path, main: Path, images: list[bytes], seconds: float) -> float:
    """Images per CPU second of the bare loop on the server's core."""
    file = projects.write(folder / "images.parquet", images)
    command = ["taskset", "-c", str(servers.SERVER_CORE), sys.executable, "-m", "benchmarks.serving.bare"]
    command += [str(main / "artifacts/bundle"), str(file), str(seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def figures_of(name: str, loads: dict[str, Loads], efficiency: list[float]):
    """Rates and times of each service, and what they give together."""
    rates = {
        one: {c: float(np.median([t.rate for t in rounds])) for c, rounds in by.items()} for one, by in loads.items()
    }
    p99 = {
        one: {c: float(np.median([t.quantile(0.99) for t in r])) for c, r in by.items()} for one, by in loads.items()
    }
    p50 = float(np.median([t.quantile(0.5) for t in loads["evergreen"][1]]))
    spread = f"{len(efficiency)} rounds"
    yield Figure(name=f"claim_serve_p50_ms, {name}", value=p50, unit="ms", goal=None, better="lower", spread=spread)
    yield Figure(
        name=f"serve_efficiency, {name}",
        value=float(np.median(efficiency)),
        unit="x",
        goal=0.7,
        better="higher",
        peer="decode, resize and ONNX Runtime in a loop, per CPU second",
        spread=f"min {min(efficiency):.2f}, max {max(efficiency):.2f} of {spread}",
    )
    peers = [one for one in rates if one != "evergreen"]
    for clients in CLIENTS[1:] if peers else ():
        best = max(peers, key=lambda one: rates[one][clients])
        said = f"p99 {p99['evergreen'][clients]:.0f} ms, the peer's {p99[best][clients]:.0f} ms"
        yield Figure(
            name=f"serve_throughput_ratio, {name}, {clients} clients",
            value=rates["evergreen"][clients] / rates[best][clients],
            unit="x",
            goal=1.3,
            better="higher",
            peer=best,
            spread=said,
        )
    for one, by in rates.items():
        for clients, rate in by.items():
            failed = sum(times.failed for times in loads[one][clients])
            said = f"p99 {p99[one][clients]:.1f} ms, {failed} failed"
            named = f"{one}, {name}, {clients} clients"
            yield Figure(name=named, value=rate, unit="images/s", goal=None, better="higher", spread=said)


if __name__ == "__main__":
    main()
