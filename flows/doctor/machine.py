"""Checks of the machine: room, memory, open files, the clock."""

import os
import shutil
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from flows.doctor.finding import Finding, ok, problem, warning
from monitoring.seen import last_at
from tasks.common.params import Params
from tasks.common.paths import state_dir
from tasks.releases.store import open_store

LITTLE, LEAST = 2e9, 200e6  # bytes free on a disk: warn, and fail soon
MEMORY = 1e9  # bytes available; the stages need about this much beyond the images
FILES = 256  # open files that a server and a run need together
SKEW, REFUSED = 60.0, 600.0  # seconds; S3 refuses requests that are 900 s off
FIRST = datetime(2025, 1, 1, tzinfo=UTC)  # before any version of Evergreen


def disks(root: Path, params: Params) -> list[Finding]:
    """How much is free where Evergreen writes, once for each disk."""
    places = [root, state_dir(root), root / ".dvc/cache", Path(tempfile.gettempdir())]
    if "://" not in params.store.url:
        places.append(root / Path(params.store.url).expanduser())
    found = {}
    for place in places:
        there = next(folder for folder in (place, *place.parents) if folder.is_dir())
        found.setdefault(os.stat(there).st_dev, (there, shutil.disk_usage(there).free, os.access(there, os.W_OK)))
    return [disk(*about) for about in found.values()]


def disk(place: Path, free: float, writable: bool) -> Finding:
    """What `free` bytes at `place` mean."""
    said = f"{free / 1e9:,.1f} GB are free at {place}"
    if not writable:
        return problem("disk", f"{place} is not writable for you", f"`ls -ld {place}`, and change its owner or mode")
    if free < LEAST:
        return problem("disk", said, "make room now: `evergreen gc` shows what can go")
    if free < LITTLE:
        return warning("disk", said, "make room: `evergreen gc` shows what can go")
    return ok("disk", said)


def memory() -> Finding:
    """How much memory is left."""
    import psutil

    left = psutil.virtual_memory().available
    said = f"{left / 1e9:,.1f} GB are available"
    return ok("memory", said) if left >= MEMORY else warning("memory", said, "end other programs before a training")


def open_files() -> Finding:
    """How many files this user's processes may open."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = f"a process may open {soft if soft != resource.RLIM_INFINITY else 'any number of'} files"
    if soft != resource.RLIM_INFINITY and soft < FILES:
        return warning("open files", said, f"`ulimit -n {min(hard, 4096) if hard > 0 else 4096}`")
    return ok("open files", said)


def clock(root: Path, params: Params) -> Finding:
    """Whether the clock agrees with the store's server, and is not before what was recorded here."""
    now = datetime.now(UTC)
    live = open_store(params.store, root).live()
    known = [at for at in (live.at.astimezone(UTC) if live else None, last_at(root)) if at is not None]
    return judge_clock(now, known, _server_time(params))


def judge_clock(now: datetime, known: Iterable[datetime], server: datetime | None) -> Finding:
    """What the clock `now` means beside times that were recorded before, and a server's."""
    cure = "set the clock (`timedatectl set-ntp true`): windows, schedules and signatures depend on it"
    if now < FIRST:
        return problem("clock", f"it says {now:%Y-%m-%d %H:%M} UTC", cure)
    newest = max(known, default=now)
    if (back := (newest - now).total_seconds()) > SKEW:
        return problem("clock", f"it says {now:%Y-%m-%d %H:%M} UTC, {back:.0f} s before what was recorded here", cure)
    if server is None:
        return ok("clock", f"{now:%Y-%m-%d %H:%M} UTC, after everything recorded here; no server to compare with")
    off = abs((now - server).total_seconds())
    if off > SKEW:
        return (problem if off > REFUSED else warning)("clock", f"{off:.0f} s off the store's server", cure)
    return ok("clock", f"{now:%Y-%m-%d %H:%M} UTC, {off:.0f} s off the store's server")


def _server_time(params: Params) -> datetime | None:
    """The time that the store's server says in its replies; None for a folder."""
    if not params.store.url.startswith("s3://"):
        return None
    from tasks.storage.s3_bucket import Bucket

    bucket = Bucket(params.store.url, params.store.endpoint_url)
    with bucket.explained(f"listing s3://{bucket.name}"):
        reply = bucket.s3.list_objects_v2(Bucket=bucket.name, Prefix=bucket.prefix, MaxKeys=1)
    said = reply["ResponseMetadata"]["HTTPHeaders"].get("date")
    return parsedate_to_datetime(said) if said else None
