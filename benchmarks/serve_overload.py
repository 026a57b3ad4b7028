"""Ten times more requests than `evergreen serve` can answer: does it stay up, small, and clear about it?

    python -m benchmarks.serve_overload [--seconds 60] [--quick]

lite0 at 224 pixels, photos of 640 pixels, one worker, capture on. First the capacity is measured with 64 clients; then
requests come at ten times that rate over at most 1,000 connections. Memory is that of all processes of the service,
at the end of the overload over what it was at the end of the normal load.
"""

import argparse
import asyncio
import tempfile
from pathlib import Path

from benchmarks.record import Figure, report
from benchmarks.serving import projects, servers
from benchmarks.serving.client import closed_loop, open_loop
from tasks.common.checkout import checkout

TIMES = 10
CONNECTIONS = 1000


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--seconds", type=float, default=60.0)
    asked.add_argument("--quick", action="store_true")
    options = asked.parse_args()
    seconds, size = (3.0, projects.SMALL) if options.quick else (options.seconds, 224)
    servers.stay_on_the_clients_core()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        project = projects.make(folder, size, **projects.ONE_WORKER)
        images = projects.images(size, 200)
        with servers.evergreen(project, checkout(project).secret, folder / "serve.log") as service:
            servers.warm(service, images)
            requests = service.requests(images)
            normal = closed_loop(service.url, requests, 64, seconds / 3)
            before, sizes = service.rss(), []

            async def watch() -> None:
                while True:
                    sizes.append(service.rss())
                    await asyncio.sleep(1)

            over = open_loop(service.url, requests, TIMES * normal.rate, seconds, CONNECTIONS, watch)
            alive = service.process.is_running()
            after = closed_loop(service.url, requests, 8, seconds / 6)
    other = {status: n for status, n in over.statuses.items() if status not in (200, 429, -1)}
    said = f"{over.statuses[429]} answered 429 ({over.retry_after} with Retry-After), {over.statuses[200]} answered 200"
    figures = [
        Figure(
            name="overload_rss_growth",
            value=sizes[-1] / before,
            unit="x",
            goal=1.1,
            better="lower",
            spread=f"{before >> 20} MB before, at most {max(sizes) >> 20} MB; {said}",
        ),
        Figure(
            name="overload_answers_kept",
            value=over.rate / normal.rate,
            unit="x",
            goal=None,
            better="higher",
            peer="answers per second at 64 clients without overload",
            spread=f"p99 of answers {over.quantile(0.99):.0f} ms; after it {after.rate / normal.rate:.2f}",
        ),
        Figure(
            name="overload_other_answers",
            value=float(sum(other.values()) + (0 if alive else 1)),
            unit="requests",
            goal=0,
            better="lower",
            spread=f"{other or 'none'}; {over.statuses[-1]} found no free connection of {CONNECTIONS}",
        ),
    ]
    report("serve_overload", "python -m benchmarks.serve_overload", figures, options.quick)


if __name__ == "__main__":
    main()
