"""Does any request fail while the model, the traffic's shares or the processes of `evergreen serve` change?

    python -m benchmarks.serve_swap [--pause 6] [--quick]

Eight clients ask without a pause, on kept connections, two workers answer. Meanwhile: a new champion, a rollback, a
canary that begins, takes a step and ends, a pin and its end, humans-only, all workers replaced one by one, a worker
killed with SIGKILL. A client sends a request again whose connection broke, once, as HTTP libraries do; a request has
failed if that gave no answer 200, too. SIGKILL breaks what the worker was answering; nothing else may break anything.
"""

import argparse
import asyncio
import os
import signal
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.record import Figure, report
from benchmarks.serving import projects, servers
from benchmarks.serving.client import Times, closed_loop
from benchmarks.serving.servers import Running
from tasks.common.checkout import checkout
from tasks.common.files import read_json
from tasks.common.params import load_params
from tasks.releases import rollout
from tasks.releases.pointer import successor
from tasks.releases.rollout import Rollout, RolloutEnd
from tasks.releases.store import open_store
from tasks.releases.switches import end_pin, predictor_dir, set_humans_only, set_pin
from tests.support.second_release import put_bundle, release

CLIENTS = 8


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--pause", type=float, default=6.0)
    asked.add_argument("--quick", action="store_true")
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        root = projects.make(
            folder, projects.SMALL if options.quick else 48, **{"refresh_seconds: 5.0": "refresh_seconds: 1"}
        )
        images = projects.images(48, 200)
        with servers.evergreen(root, checkout(root).secret, folder / "serve.log", core=None) as service:
            servers.warm(service, images)
            found = [
                (name, during(service, images, change, 2.0 if options.quick else options.pause))
                for name, change in changes(root)
                if not options.quick or name in ("a new champion", "SIGKILL of a worker")
            ]
    killed = {name: times for name, times in found if "SIGKILL" in name}
    others = {name: times for name, times in found if "SIGKILL" not in name}
    requests = sum(sum(times.statuses.values()) for _, times in found)
    broken = {name: times.broken for name, times in others.items() if times.broken}
    figures = [
        Figure(
            name="swap_failed_requests",
            value=float(sum(times.failed for _, times in found)),
            unit=f"of {requests}",
            goal=0,
            better="lower",
            spread=f"answers by version: {dict(sum((times.versions for _, times in found), start=Times().versions))}",
        ),
        Figure(
            name="swap_broken_connections",
            value=float(sum(broken.values())),
            unit="requests sent again",
            goal=0,
            better="lower",
            spread=f"{broken or 'none'}; without SIGKILL",
        ),
        Figure(
            name="killed_worker_sent_again",
            value=float(sum(times.broken for times in killed.values())),
            unit="requests sent again",
            goal=None,
            better="lower",
            spread=f"slowest answer {max(max(times.taken) for times in killed.values()):.2f} s",
        ),
        *(
            Figure(name=f"slowest answer, {name}", value=1e3 * max(times.taken), unit="ms", goal=None, better="lower")
            for name, times in found
        ),
    ]
    report("serve_swap", "python -m benchmarks.serve_swap", figures, options.quick)


def during(service: Running, images: list[bytes], change: Callable[[], None], pause: float) -> Times:
    """What clients met in `pause` seconds before and after a change."""

    async def changed() -> None:
        await asyncio.sleep(pause / 3)
        await asyncio.to_thread(change)

    return closed_loop(service.url, service.requests(images), CLIENTS, pause, changed)


def changes(root: Path) -> list[tuple[str, Callable[[], None]]]:
    """What happens, in order."""
    releases = open_store(load_params(root / "params.yaml").store, root)
    first = releases.live()
    digest, _ = put_bundle(root, "Bag", "v0.3.0")

    def roll_back() -> None:
        now = releases.live()
        back = {"version": first.version, "bundle": first.bundle, "git_rev": first.git_rev, "run_id": first.run_id}
        releases.promote(successor(now, by="a", why="worse", **back))

    def begin() -> None:
        live, now = releases.live(), datetime.now(UTC)
        rollout.begin(
            releases,
            Rollout(
                id=rollout.new_id(now),
                strategy="canary",
                run_id="r-3",
                version="v0.3.0",
                bundle=digest,
                champion=live.version,
                champion_bundle=live.bundle,
                champion_seq=live.seq,
                steps=(0.05, 0.5),
                since=now,
                step_since=now,
                by="a",
                why="a benchmark",
            ),
        )

    def step() -> None:
        rollout.advance(releases, rollout.active(releases), by="a", why="a benchmark")

    def end() -> None:
        stop = RolloutEnd(how="stopped", at=datetime.now(UTC), by="a", why="a benchmark")
        rollout.finish(releases, rollout.active(releases), stop)

    def humans() -> None:
        set_humans_only(root, True, "a")
        set_humans_only(root, False, "a")

    def service() -> dict:
        return read_json(predictor_dir(root) / "service.json")

    return [
        ("a new champion", lambda: release(root, "Trouser", "v0.2.0")),
        ("a rollback", roll_back),
        ("a canary begins", begin),
        ("a canary's step", step),
        ("a canary ends", end),
        ("a pin", lambda: set_pin(root, first.version, first.bundle, "a")),
        ("the end of a pin", lambda: end_pin(root, "a")),
        ("humans-only", humans),
        ("all workers replaced", lambda: os.kill(service()["pid"], signal.SIGHUP)),
        ("SIGKILL of a worker", lambda: os.kill(service()["workers"][0]["pid"], signal.SIGKILL)),
    ]


if __name__ == "__main__":
    main()
