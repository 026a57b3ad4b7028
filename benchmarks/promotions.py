"""Many writers promote at the same time: does the history hold every version exactly once, without a gap?

    python -m benchmarks.promotions [--quick]

8 processes make 200 promotions each in a release store in a folder, then in one on a real S3 server with conditional
writes (moto). A writer that loses a race reads the live version and tries again, as a run does. Expected:
promotions_lost_or_doubled 0. A quick pass makes 3 x 5.
"""

import argparse
import multiprocessing
import os
import random
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

from benchmarks.record import Figure, report
from benchmarks.scratch import say
from tasks.common.errors import EvergreenError
from tasks.common.params import StoreParams
from tasks.releases.pointer import successor
from tasks.releases.store import PointerMoved, Releases, open_store

ROOT = Path(__file__).resolve().parent.parent
PAUSE = 0.1  # longest time between a lost race and the next try, seconds
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tasks.releases.store", "tasks.storage.s3_store"])


def promote_many(store: StoreParams, writer: int, count: int, start) -> None:
    """Make `count` promotions, one after the other, once all writers have reached `start`."""
    releases = open_store(store, ROOT)
    start.wait()
    for number in range(count):
        about = {"version": f"v{writer}.{number}.0", "run_id": f"run-{writer}", "by": "benchmark", "why": "a race"}
        while True:
            try:
                releases.promote(successor(releases.live(), git_rev="0" * 40, bundle="0" * 64, **about))
                break
            except PointerMoved:
                time.sleep(random.uniform(0, PAUSE))  # at this point a run judges again, for minutes


def race(store: StoreParams, writers: int, count: int) -> tuple[int, float]:
    """(promotions lost, doubled or out of order; promotions per second) of `writers` processes x `count`."""
    start = SERVER.Barrier(writers + 1)
    processes = [SERVER.Process(target=promote_many, args=(store, w, count, start)) for w in range(writers)]
    for process in processes:
        process.start()
    start.wait()
    began = time.perf_counter()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - began
    if failed := [process.exitcode for process in processes if process.exitcode]:
        raise EvergreenError(f"{len(failed)} of {writers} writers ended with an error ({failed})")
    return wrong(open_store(store, ROOT), writers, count), writers * count / seconds


def wrong(releases: Releases, writers: int, count: int) -> int:
    """Versions that the history lost or repeated, plus gaps and breaks in its order."""
    history = releases.history()
    found = Counter(pointer.version for pointer in history)
    expected = Counter(f"v{w}.{n}.0" for w in range(writers) for n in range(count))
    lost_or_doubled = (found - expected).total() + (expected - found).total()
    gaps = sum(pointer.seq != seq for seq, pointer in enumerate(history, 1))
    breaks = sum(now.prev != before.version for before, now in pairwise(history))
    return lost_or_doubled + gaps + breaks + (history[-1] != releases.live())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    writers, count = (3, 5) if quick else (8, 200)
    sys.path.insert(0, str(ROOT))
    from tests.support.s3_servers import environment, moto_server

    found = {}
    with tempfile.TemporaryDirectory() as folder, moto_server(Path(folder)) as server:
        os.environ.update(environment(Path(folder)))
        stores = {
            "local": StoreParams(url=f"{folder}/releases"),
            "moto": StoreParams(url=f"s3://{server.bucket()}/releases", endpoint_url=server.endpoint),
        }
        for name, store in stores.items():
            say(f"{name}: {writers} writers x {count} promotions ...")
            found[name] = race(store, writers, count)
            say(f"{name}: {found[name][0]} wrong, {found[name][1]:.1f} promotions a second")
    rates = ", ".join(f"{name} {rate:.1f} promotions/s" for name, (_, rate) in found.items())
    figure = Figure(
        name="promotions_lost_or_doubled",
        value=sum(bad for bad, _ in found.values()),
        unit=f"of {len(found) * writers * count}",
        goal=0,
        better="lower",
        spread=f"{writers} writers x {count} each: {rates}",
    )
    report("promotions", "python -m benchmarks.promotions", [figure], quick)


if __name__ == "__main__":
    main()
