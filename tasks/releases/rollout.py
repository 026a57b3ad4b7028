"""The stored rollout: a challenger answers unseen, or a share of the traffic, before it goes live.

Unseen is a shadow, a growing share is a canary.

    rollout.json                       the newest rollout: the one that goes on, or the last that ended
    rollouts/<id>.json                 every earlier one; written before another replaces it
    rollouts/<id>/failed/<worker>.json what failed in a process of the service (tasks.releases.arm_failures)

The release store holds it, so every machine that shares the store sees the same rollout. Only `flows/rollout/` begins,
advances and ends one; the pointer champion.json alone says what is live.

The service (its router) reads it each `predictor.refresh_seconds`, in a background thread:

    now = active(releases)                             # None: the live model answers everything
    if now and now.fits(live_version):                 # else it ended, or is about another champion: as None
        folder = releases.get_bundle(now.bundle, bundles / now.bundle)
        challenger = Model(Predictor(folder), now.version)

and for each image, with `name` the owner's key, else the image's sha256:

    now.arm(name) -> "canary": the challenger answers, role "canary", logged under now.version
                     "shadow": the live model answers, the challenger too, unseen
                     "live":   the live model answers

A challenger that fails on an image must not fail the request: the live model answers instead, and the service counts
the failure: each process calls `arm_failures.count_failures` with its totals, at most once a refresh.
"""

import hashlib
import json
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from tasks.common.checks import Check, Frozen
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.releases.bundle_store import StoreDamaged
from tasks.releases.store import Releases

ROLLOUT = "rollout.json"
FOLDER = "rollouts/"
SCHEMA = 1

Strategy = Literal["shadow", "canary"]
Arm = Literal["live", "canary", "shadow"]
How = Literal["promoted", "rolled_back", "stopped", "superseded"]


class StepEnd(Frozen):
    """A step that ended well."""

    step: int
    share: float  # of the traffic that the challenger answered
    since: AwareDatetime
    at: AwareDatetime  # when it ended
    by: str
    why: str  # a sentence


class RolloutEnd(Frozen):
    """How a rollout ended. superseded: another model went live meanwhile."""

    how: How
    at: AwareDatetime
    by: str
    why: str  # a sentence
    checks: tuple[Check, ...] = ()  # the evidence of an automatic end


class Rollout(Frozen):
    """One rollout. `id` is also the salt of its shares: another rollout picks other keys."""

    id: str = Field(pattern=r"^[0-9TZ]+-[0-9a-f]{8}$")
    strategy: Strategy
    run_id: str
    version: str  # of the challenger; its tag exists, nothing points at it yet
    bundle: str = Field(pattern=r"^[0-9a-f]{64}$")
    champion: str  # version that it is compared with
    champion_bundle: str = Field(pattern=r"^[0-9a-f]{64}$")
    champion_seq: int = Field(ge=1)  # promotion that made it live
    steps: tuple[float, ...] = Field(min_length=1)  # shares of a canary, rising; a shadow has one step: 0.0
    step: int = Field(0, ge=0)
    since: AwareDatetime
    step_since: AwareDatetime
    by: str
    why: str
    done: tuple[StepEnd, ...] = ()
    ended: RolloutEnd | None = None

    @model_validator(mode="after")
    def _within(self) -> "Rollout":
        if self.step >= len(self.steps):
            raise ValueError(f"step {self.step} of {len(self.steps)}")
        return self

    @property
    def share(self) -> float:
        """Share of the traffic that the challenger answers now; 0 for a shadow."""
        return 0.0 if self.ended or self.strategy == "shadow" else self.steps[self.step]

    @property
    def last(self) -> bool:
        """Is this its last step?"""
        return self.step == len(self.steps) - 1

    def fits(self, live: str) -> bool:
        """Is it going on, and about `live`, the version that is live now?"""
        return self.ended is None and live == self.champion

    def arm(self, name: str) -> Arm:
        """Which model answers the image that the owner calls `name` (key, else sha256): the same name, the same arm.

        A key that the challenger answers in one step stays with it in all later ones.
        """
        if self.ended is not None:
            return "live"
        if self.strategy == "shadow":
            return "shadow"
        return "canary" if assigned(name, self.share, self.id) else "live"

    def sentence(self) -> str:
        """ "v0.3.0 answers 5 % of the traffic (canary, step 1 of 3) since 2026-12-01 08:00 UTC"."""
        if self.ended is not None:
            word = {"rolled_back": "rolled back"}.get(self.ended.how, self.ended.how)
            return f"{self.version} was {word} by {self.ended.by}, {_minute(self.ended.at)}: {self.ended.why}"
        since = f"since {_minute(self.step_since)}"
        if self.strategy == "shadow":
            return f"{self.version} answers the traffic of {self.champion} unseen (shadow) {since}"
        where = f"canary, step {self.step + 1} of {len(self.steps)}"
        return f"{self.version} answers {100 * self.share:g} % of the traffic ({where}) {since}"


class RolloutMoved(EvergreenError):
    """The rollout changed since it was read: read it again before deciding anything."""


def assigned(key: str, share: float, salt: str) -> bool:
    """Is `key` among the `share` (0 to 1) that gets the challenger? The same for every process, and nested in shares.

    It is uniform over keys: sha256 of salt and key, read as a number between 0 and 1.
    """
    digest = hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) < share * 2**64


def active(releases: Releases) -> Rollout | None:
    """The rollout that goes on; None if none does. One small read. Raises StoreDamaged."""
    found = newest(releases)
    return found if found is not None and found.ended is None else None


def newest(releases: Releases) -> Rollout | None:
    """The rollout that goes on, else the last one that ended. Raises StoreDamaged."""
    return _read(releases, ROLLOUT)


def rollouts(releases: Releases) -> list[Rollout]:
    """Every rollout, oldest first. Raises StoreDamaged."""
    keys = [key for key in releases.store.list(FOLDER) if key.count("/") == 1 and key.endswith(".json")]
    found = {one.id: one for key in keys if (one := _read(releases, key))}
    if (last := newest(releases)) is not None:
        found[last.id] = last
    return sorted(found.values(), key=lambda one: (one.since, one.id))


def new_id(now: datetime) -> str:
    """The id of a rollout that begins now."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"


def begin(releases: Releases, new: Rollout) -> Rollout:
    """Store `new` as the rollout that goes on; also safe to repeat. Raises EvergreenError while another one goes on."""

    def begun(about: dict | None) -> dict[str, Any]:
        before = _accept(about, ROLLOUT) if about else None
        if before is not None and before.id != new.id:
            if before.ended is None:
                raise EvergreenError(
                    f"a rollout goes on already: {before.sentence()}. Wait for it, or end it with "
                    '`evergreen rollout stop --why "..."`'
                )
            releases.store.create(f"{FOLDER}{before.id}.json", _encode(before))
        return _stored(new)

    releases.update(ROLLOUT, begun)
    return new


def advance(releases: Releases, rollout: Rollout, *, by: str, why: str, now: datetime | None = None) -> Rollout:
    """End the step of `rollout` well and start the next; repeating it changes nothing. Raises RolloutMoved."""
    now = now or datetime.now(UTC)
    if rollout.last:
        raise EvergreenError(f"step {rollout.step + 1} of rollout {rollout.id} is its last: promote {rollout.version}")
    end = StepEnd(step=rollout.step, share=rollout.share, since=rollout.step_since, at=now, by=by, why=why)

    def advanced(found: Rollout) -> Rollout:
        if found.ended is not None or found.step not in (rollout.step, rollout.step + 1):
            raise RolloutMoved(f"meanwhile: {found.sentence()}. Look at it again with `evergreen rollout`")
        if found.step == rollout.step + 1:
            return found
        return found.model_copy(update={"step": found.step + 1, "step_since": now, "done": (*found.done, end)})

    return _change(releases, rollout.id, advanced)


def finish(releases: Releases, rollout: Rollout, end: RolloutEnd) -> Rollout:
    """End `rollout`; the first end stays. Raises RolloutMoved if another rollout has begun since."""
    return _change(
        releases, rollout.id, lambda found: found if found.ended else found.model_copy(update={"ended": end})
    )


def _change(releases: Releases, rollout_id: str, change: Callable[[Rollout], Rollout]) -> Rollout:
    def changed(about: dict | None) -> dict[str, Any]:
        found = _accept(about, ROLLOUT) if about else None
        if found is None or found.id != rollout_id:
            now = found.sentence() if found else "the store holds no rollout"
            raise RolloutMoved(f"rollout {rollout_id} has ended: {now}. Look again with `evergreen rollout`")
        return _stored(change(found))

    return _accept(releases.update(ROLLOUT, changed), ROLLOUT)


def _read(releases: Releases, key: str) -> Rollout | None:
    if (found := releases.store.read(key)) is None:
        return None
    try:
        return _accept(json.loads(found[0]), key)
    except ValueError as error:
        raise StoreDamaged(f"{key} in the release store is not JSON ({error}): restore it from a backup") from None


def _accept(about: Any, key: str) -> Rollout:
    try:
        refuse_newer(about["schema"], SCHEMA, f"{key} in the release store")
        return Rollout.model_validate({name: value for name, value in about.items() if name != "schema"})
    except (KeyError, TypeError, AttributeError, ValidationError) as error:
        raise StoreDamaged(f"{key} in the release store cannot be read ({error}): restore it from a backup") from None


def _stored(rollout: Rollout) -> dict[str, Any]:
    return {"schema": SCHEMA} | rollout.model_dump(mode="json")


def _encode(rollout: Rollout) -> bytes:
    return (json.dumps(_stored(rollout), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _minute(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
