"""Eight writers on S3 over a network that fails, in thousands of orders: is every version promoted exactly once?

    nice python -m benchmarks.s3_schedules KEPT [--count 10000] [--minutes 60] [--replay SEED] [--quick]

One schedule is drawn from its seed: in which order the requests of eight writers arrive, and what happens to each. A
request is served, refused (500, 503), lost on its way, or lost on its way back after S3 did it; the body of an answer
is cut. The writers are greenlets of one process that stop at every request, before boto3's own retries see what
happened, so a schedule is the same each time. moto answers, which enforces conditional writes. Retries do not wait.

Each writer promotes one version, as often as it takes, and a quarter of them tombstones a batch. Then the history must
hold every version once, without a gap, each the successor of the one before. A writer that gets an error tries the
same promotion again, as the next start of a run does.

Schedules are kept in KEPT by seed: a second call goes on. Expected: s3_schedule_failures 0 of 10,000.
"""

import argparse
import gc
import json
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urlsplit

from benchmarks.record import Figure, report
from benchmarks.s3_network import Network, answer
from benchmarks.scratch import say
from tasks.releases.pointer import broken_link, successor
from tasks.releases.store import PointerMoved, Releases
from tasks.storage.s3_errors import S3Error
from tasks.storage.s3_store import S3Store

WRITERS = 8
BATCH = 100  # schedules between two writes
BUCKET = "schedules"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}


class World:
    """moto in this process, and one boto3 client for each writer."""

    def __init__(self):
        from botocore.retries.quota import RetryQuota
        from botocore.useragent import UserAgentString

        UserAgentString.to_string = lambda _: "a benchmark"  # made again for each request, a tenth of its time

        os.environ.update(ENVIRONMENT)
        known = {id(one) for one in gc.get_objects() if isinstance(one, RetryQuota)}
        self.network: Network | None = None
        self.stores = [S3Store(f"s3://{BUCKET}/team") for _ in range(WRITERS)]
        for store in self.stores:
            store.bucket.s3.meta.events.register_first("before-send.s3", self._send)
        self.stores[0].bucket.s3.create_bucket(Bucket=BUCKET)
        self.stores[0].sweep()  # probes for conditional writes, once
        self.quotas = [one for one in gc.get_objects() if isinstance(one, RetryQuota) and id(one) not in known]

    def _send(self, request, **about):
        return self.network.ask(request, **about) if self.network else served(request)

    def schedule(self, seed: int) -> tuple[list[str], list]:
        """(what was wrong, the requests in order) of the schedule `seed`."""
        forget()
        network = Network(seed, served)
        for store in self.stores:
            store.bucket.prefix = f"team/{seed}/"
        for quota in self.quotas:
            quota._available_capacity = quota._max_capacity
        self.network = network
        try:
            with patch("time.sleep", lambda seconds: None):
                failed = network.run([writer(store, number) for number, store in enumerate(self.stores)])
        finally:
            self.network = None
        return failed + wrong(Releases(self.stores[0])), network.trace


def served(request):
    """What moto answers, by its own functions for buckets and keys."""
    from moto.core.request import normalize_request
    from moto.s3.responses import S3Response

    asked = normalize_request(request)
    kind = S3Response.bucket_dispatch if urlsplit(request.url).path in ("", "/") else S3Response.key_dispatch
    status, headers, content = kind(asked, asked.raw_url, asked.headers)
    return answer(request, status, headers, content.encode() if isinstance(content, str) else content or b"")


def writer(store: S3Store, number: int):
    """One writer's work."""

    def work() -> None:
        releases, about = Releases(store), {"run_id": f"run-{number}", "git_rev": "0" * 40, "bundle": "0" * 64}
        pointer = None
        while True:
            try:
                pointer = pointer or successor(
                    releases.live(), version=f"v0.{number}.0", by="benchmark", why="a race", **about
                )
                releases.promote(pointer)
                break
            except PointerMoved:
                pointer = None
            except S3Error:
                continue  # the same promotion again: it may have taken effect
        while number % 4 == 0:
            try:
                releases.tombstone(f"b-{number}", why="a test", by=f"run-{number}")
                break
            except S3Error:
                continue

    return work


def wrong(releases: Releases) -> list[str]:
    """What the history lost, doubled or put in a wrong order, seen without faults."""
    history = releases.history()
    found = Counter(pointer.version for pointer in history)
    expected = Counter(f"v0.{number}.0" for number in range(WRITERS))
    bad = [f"lost {name}" for name in (expected - found).elements()]
    bad += [f"doubled {name}" for name in (found - expected).elements()]
    bad += [f"promotion {p.seq} is number {n}" for n, p in enumerate(history, 1) if p.seq != n]
    bad += [said for a, b in pairwise(history) if (said := broken_link(a, b))]
    if history and history[-1] != releases.live():
        bad.append("the last promotion is not live")
    if set(releases.tombstones()) != {f"b-{number}" for number in range(0, WRITERS, 4)}:
        bad.append("a tombstone is lost")
    return bad


# --- many of them ---------------------------------------------------------------------------------------------


@cache
def world() -> World:
    return World()


def part(first: int, count: int) -> dict:
    """Schedules `first` to `first + count - 1`: {from, to, failures by seed, requests, faults}."""
    failures, requests, faults = {}, 0, Counter()
    for seed in range(first, first + count):
        bad, trace = world().schedule(seed)
        requests += len(trace)
        faults.update(fault for *_, fault in trace if fault != "served")
        if bad:
            failures[seed] = bad
    return {"from": first, "to": first + count, "failures": failures, "requests": requests, "faults": faults}


def forget() -> None:
    """Empty moto's bucket."""
    from moto.s3.models import s3_backends

    for backend in s3_backends["123456789012"].values():
        if BUCKET in backend.buckets:
            backend.buckets[BUCKET].keys.clear()


def kept_parts(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def figures(parts: list[dict]) -> list[Figure]:
    count = sum(one["to"] - one["from"] for one in parts)
    failed = sorted(seed for one in parts for seed in one["failures"])
    faults = sum((Counter(one["faults"]) for one in parts), Counter())
    told = ", ".join(f"{number} {name}" for name, number in sorted(faults.items()))
    requests = sum(one["requests"] for one in parts)
    figure = Figure(
        name="s3_schedule_failures",
        value=len(failed),
        unit=f"of {count}",
        goal=0,
        better="lower",
        seeds=count,
        spread=f"{WRITERS} writers; {requests} requests, of which {told}"
        + (f"; seeds {failed[:20]}" if failed else ""),
    )
    much = Figure(name="s3_schedules", value=count, unit="", goal=10_000, better="higher", seeds=count)
    return [figure, much]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kept", type=Path, help="folder that keeps the schedules of all calls")
    parser.add_argument("--count", type=int, default=10_000, help="schedules of all calls together")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--replay", type=int, help="print every request of one schedule")
    parser.add_argument("--quick", action="store_true", help="20 schedules; records nothing")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        bad, trace = world().schedule(options.replay)
        for writer, method, key, fault in trace:
            print(f"writer {writer}: {method:<6} {key:<40} {fault}")
        sys.exit("\n".join(bad) or 0)
    if options.quick:
        report("s3_schedules", "", figures([part(0, 20)]), quick=True)
        return
    file = options.kept / "s3_schedules.jsonl"
    options.kept.mkdir(parents=True, exist_ok=True)
    parts = kept_parts(file)
    first, until = max((one["to"] for one in parts), default=0), time.monotonic() + options.minutes * 60
    with ProcessPoolExecutor(options.workers) as pool:
        while first < options.count and time.monotonic() < until:
            starts = [first + BATCH * number for number in range(options.workers)]
            for found in pool.map(part, starts, [BATCH] * len(starts)):
                parts.append(found)
                with open(file, "a") as out:
                    out.write(json.dumps(found) + "\n")
                for seed, bad in found["failures"].items():
                    say(f"seed {seed}: {'; '.join(bad)}")
            first += BATCH * len(starts)
    report("s3_schedules", "python -m benchmarks.s3_schedules KEPT", figures(parts))


if __name__ == "__main__":
    main()
