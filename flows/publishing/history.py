"""What was live when, and what a rollback withdrew, from the pointer history.

A version that was rolled back from is *withdrawn*. If a retrain gives that same model again, or starts from the same
inputs, the run is held for a person and not promoted: otherwise the next schedule would undo the rollback.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

from pydantic import AwareDatetime

from tasks.common.checks import Check, Frozen
from tasks.common.errors import EvergreenError
from tasks.common.params import Params, load_params
from tasks.gate.verdict import floor_words
from tasks.releases.pointer import Pointer
from tasks.releases.store import LIVE, Releases, open_store


def open_project(root: Path) -> tuple[Params, Releases]:
    """(params.yaml, release store) of the project at `root`."""
    params = load_params(root / "params.yaml")
    return params, open_store(params.store, root)


class Period(Frozen):
    """A period in which one version was live; `until` None: it is live now."""

    seq: int
    version: str
    since: AwareDatetime
    until: AwareDatetime | None
    by: str
    why: str
    run_id: str
    bundle: str
    git_rev: str
    again: bool  # the version had been live before: a rollback, or a return after one


class Withdrawal(Frozen):
    """`release` went live once and was rolled back by `rollback`."""

    release: Pointer
    rollback: Pointer


def periods(history: Sequence[Pointer]) -> list[Period]:
    """What was live when, oldest first."""
    found, earlier = [], set()
    for place, pointer in enumerate(history):
        end = history[place + 1].at if place + 1 < len(history) else None
        about = pointer.model_dump(include={"seq", "version", "by", "why", "run_id", "bundle", "git_rev"})
        found.append(Period(**about, since=pointer.at, until=end, again=pointer.version in earlier))
        earlier.add(pointer.version)
    return found


def known_history(root: Path, releases: Releases) -> list[Pointer]:
    """`releases.history()`, read once for each live pointer: it ends a chain of digests, so it names its history.

    For pages that are asked for again and again. Commands read the history itself.
    """
    found = releases.store.read(LIVE)
    return list(_history_at(root, found[1])) if found else releases.history()


@functools.lru_cache(maxsize=4)
def _history_at(root: Path, token: str) -> tuple[Pointer, ...]:
    return tuple(open_project(root)[1].history())


def evergreen_versions(releases: Releases, found: Sequence[Period]) -> dict[str, str]:
    """Version -> the version of Evergreen that made it, as its run recorded it (since Evergreen 0.2)."""
    runs = ((period.version, releases.run(period.run_id)) for period in found if not period.again)
    return {version: run["evergreen"] for version, run in runs if run and "evergreen" in run}


def floors_of_versions(releases: Releases, found: Sequence[Period]) -> dict[str, str]:
    """Version -> how its run stood to the floors of then: "2 met, 1 unproven"; left out without floors."""
    words = {}
    for period in found:
        checks = ((releases.run(period.run_id) or {}).get("verdict") or {}).get("checks") or []
        if not period.again and (said := floor_words([Check.model_validate(check) for check in checks])):
            words[period.version] = said
    return words


def withdrawn(history: Sequence[Pointer]) -> dict[str, Withdrawal]:
    """Bundle digest -> the rollback that withdrew it, to a version older than the bundle's first release.

    A withdrawn bundle must not go live automatically. If a person makes it live again, it is no longer withdrawn.
    """
    first: dict[str, Pointer] = {}
    found: dict[str, Withdrawal] = {}
    for pointer in history:
        known = first.setdefault(pointer.bundle, pointer)
        if known is not pointer:
            found.pop(pointer.bundle, None)
            newer = (release for release in first.values() if release.seq > known.seq)
            found = {release.bundle: Withdrawal(release=release, rollback=pointer) for release in newer} | found
    return found


def withdrawal_of(releases: Releases, bundle: str, key: str | None = None) -> Withdrawal | None:
    """The withdrawal that forbids publishing `bundle`, made by a run over the inputs `key`; None: it may go live.

    On another machine the same inputs may give a slightly different model, so the input key in the run record of a
    withdrawn release is compared too.
    """
    found = withdrawn(releases.history())
    if bundle in found or key is None:
        return found.get(bundle)
    runs = ((entry, releases.run(entry.release.run_id) or {}) for entry in found.values())
    return next((entry for entry, run in runs if run.get("key") == key), None)


def withdrawn_sentence(entry: Withdrawal) -> str:
    """The message of a run that made a withdrawn version again."""
    release, rollback = entry.release, entry.rollback
    return (
        f"this is {release.version} again, which {rollback.by} rolled back to {rollback.version} on "
        f"{rollback.at:%Y-%m-%d %H:%M} UTC ({rollback.why}): held. `evergreen rollback {release.version}` puts it "
        "back; `evergreen tombstone BATCH` excludes a batch from the next run"
    )


def find(history: Sequence[Pointer], version: str | None) -> Pointer:
    """The newest pointer to `version`; None: to the version that was live before the live one first went live.

    So each of several rollbacks goes further back, never forward. Raises EvergreenError.
    """
    if not history:
        raise EvergreenError("nothing has been released yet: `evergreen retrain` makes the first version")
    live = history[-1]
    if version is None:
        if lost := sorted(set(range(1, live.seq + 1)) - {pointer.seq for pointer in history}):
            raise EvergreenError(
                f"promotion {lost[0]} is missing from the history, so nothing says which version was live before "
                f"{live.version}: name the version to roll back to, and restore pointers/ of the release store from a "
                "backup (`evergreen verify`)"
            )
        first = next(place for place, pointer in enumerate(history) if pointer.version == live.version)
        if first == 0:
            raise EvergreenError(f"{live.version} is the first version: there is no older one to roll back to")
        version = history[first - 1].version
    found = [pointer for pointer in history if pointer.version == version]
    if not found:
        known = ", ".join(dict.fromkeys(pointer.version for pointer in history))
        raise EvergreenError(f"no version {version!r} was ever live; there are: {known}")
    return found[-1]
