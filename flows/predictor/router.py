"""Which model answers: the live one, a rollout's challenger, or the one that a person pinned.

Two threads keep the state true. One reads the switches of this machine and never waits for the network. The other reads
the release store. A caller only reads the newest state, a tuple that is replaced as a whole.
"""

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from flows.predictor.challenger import Loader, warmed
from flows.predictor.counts import ArmCounts
from flows.predictor.known import cached_model, last_live, remember
from serving.live import Live, Model, fetch_bundle
from serving.service.contracts import Choice
from tasks.common.paths import cache_dir
from tasks.releases.rollout import Rollout, active
from tasks.releases.store import Releases
from tasks.releases.switches import HumansOnly, Switches, SwitchesDamaged, read_switches

logger = logging.getLogger("evergreen.predictor")

# where a starting worker cannot read the switches: a person may have switched humans-only on
LOST = Switches(humans_only=HumansOnly(at=datetime.fromtimestamp(0, UTC), by="Evergreen"))


class State(NamedTuple):
    """What answers now."""

    live: Model
    pinned: Model | None = None  # answers instead, and suspends the rollout
    humans_only: bool = False
    rollout: Rollout | None = None  # that goes on
    challenger: Model | None = None  # of the rollout

    @property
    def rolling(self) -> bool:
        """Does a rollout have a say in who answers?"""
        return self.pinned is None and self.rollout is not None and self.challenger is not None


class ProjectRouter:
    """A `serving.service.contracts.Router` over the project at `root`. Threads may share it."""

    def __init__(self, root: Path, store: Callable[[], Releases], every: float = 5.0, threads: int = 1):
        """Load what answers now. Raises EvergreenError if nothing has been released yet.

        If the release store cannot be read, what was live here last answers until it can. store: opens the release
        store, which may fail. every: seconds between two looks. threads: of ONNX Runtime.
        """
        self.root, self.every, self.threads = root, every, threads
        self.counts = ArmCounts()
        self._open = store
        self._releases: Releases | None = None  # once it could be opened
        self._live: Live | None = None
        self._problems: dict[str, str] = {}  # what -> the newest problem with it
        self._switches: Switches | None = None  # as read last
        self._loader = Loader(root, threads)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._state = State(warmed(self._first()))
        self.look_at_switches()
        self.look_at_store()

    # for the service

    def choose(self, key: str | None, digest: str) -> Choice:
        """Which model answers the image with this key, else digest."""
        state = self._state
        if not state.rolling:
            return Choice(state.pinned or state.live, humans_only=state.humans_only)
        arm = state.rollout.arm(key or digest)
        if arm == "canary":
            return Choice(state.challenger, "canary", humans_only=state.humans_only)
        shadow = state.challenger if arm == "shadow" else None
        return Choice(state.live, shadow=shadow, humans_only=state.humans_only)

    def models(self) -> dict[str, Model]:
        """Role -> the model that has it now."""
        state = self._state
        found = {"live": state.pinned or state.live}
        return found | {state.rollout.strategy: state.challenger} if state.rolling else found

    @property
    def state(self) -> State:
        """What answers now."""
        return self._state

    @property
    def problems(self) -> list[str]:
        """What keeps this router from what it should do, in sentences."""
        return list(self._problems.values())

    # in the background

    def start(self) -> None:
        """Keep the state true until `close`."""
        for name, look in (("switches", self.look_at_switches), ("store", self.look_at_store)):
            threading.Thread(target=self._repeat, args=(look,), name=f"evergreen-{name}", daemon=True).start()

    def close(self) -> None:
        """Look no more, and hand over what was counted last."""
        self._stop.set()
        self._hand_over()

    def look_at_switches(self) -> None:
        """Read the switches, and load a pinned version from this machine's cache."""
        try:
            switches = read_switches(self.root)
            self._say("switches", None)
        except SwitchesDamaged as error:
            self._say("switches", f"{error}. Until then {self._without_switches()}")
            switches = self._switches or LOST
        pin, pinned = switches.pin, self._state.pinned
        if pin is None:
            pinned = None
            self._say("pin", None)
        elif pinned is None or pinned.version != pin.version:
            try:
                pinned = warmed(cached_model(self.root, pin.version, pin.bundle, self.threads))
                self._say("pin", None)
            except Exception as error:  # whatever is wrong with it: what answers now goes on
                self._say("pin", f"{pin.version} is pinned and cannot be loaded: {error}")
        self._replace(pinned=pinned, humans_only=switches.humans_only is not None)
        self._switches = switches

    def look_at_store(self) -> None:
        """Read which model is live and which rollout goes on, load both, and fetch what is pinned and missing here.

        First, the rollout's counts go to the store.
        """
        self._hand_over()
        try:
            live = self._follow()
            if live is not self._state.live:
                self._replace(live=warmed(live))
            self._look_at_rollout(live)
            pin, pinned = self._switches and self._switches.pin, self._state.pinned
            if pin and (pinned is None or pinned.version != pin.version):
                fetch_bundle(self._releases, pin.bundle, cache_dir("bundles", self.root))
            self._say("store", None)
        except Exception as error:  # a store that is down must not stop answers: the loaded model keeps answering
            self._say_away(self._state.live.version, error)

    def _look_at_rollout(self, live: Model) -> None:
        """Load the challenger of the rollout that goes on. Raises where the store cannot be read."""
        rollout, challenger = active(self._releases), self._state.challenger
        if rollout is None or not rollout.fits(live.version):
            rollout = challenger = None
        elif challenger is None or challenger.version != rollout.version:
            challenger = self._loader.load(self._releases, rollout)
        failed = self._loader.failed if rollout is not None else False
        said = f"{rollout.version} of the rollout does not compute here: {self._loader.why}" if rollout else ""
        self._say("challenger", said if failed is not False else None)
        self.counts.follow(rollout, None if failed is None else not failed, self._loader.why if failed else "")
        self._replace(rollout=rollout if challenger is not None else None, challenger=challenger)

    def _hand_over(self) -> None:
        if self._releases is None:
            return
        try:
            self.counts.hand_over(self._releases)
            self._say("counts", None)
        except Exception as error:  # the totals stay here; a store that refuses writes must not stop looks
            self._say("counts", f"cannot store how often the models of the rollout failed: {error}")

    def _first(self) -> Model:
        try:
            return self._follow()
        except Exception as error:  # of the store, whatever library it is read through
            if (model := last_live(self.root, self.threads)) is None:
                raise
            self._say_away(model.version, error)
            return model

    def _follow(self) -> Model:
        """The live model, by the store. Raises if the store or the bundle cannot be read."""
        if self._live is None:
            self._releases = self._open()
            self._live = Live(self._releases, cache_dir("bundles", self.root), self.every, self.threads)
        live = self._live.refresh()
        remember(self.root, live.version, self._live.bundle, live=True)
        return live

    def _say_away(self, version: str, error: Exception) -> None:
        self._say("store", f"cannot read which model is live, {version} keeps answering: {error}")

    def _without_switches(self) -> str:
        return "people look at every answer" if self._switches is None else "what was read last holds"

    def _repeat(self, look: Callable[[], None]) -> None:
        while not self._stop.wait(self.every):
            look()

    def _replace(self, **changes: Any) -> None:
        with self._lock:
            before, self._state = self._state, self._state._replace(**changes)
        for said in _changes(before, self._state):
            logger.info("%s", said)

    def _say(self, what: str, problem: str | None) -> None:
        """Note a problem, and log it once; None: it is over."""
        before = self._problems.pop(what, None)
        if problem is not None:
            self._problems[what] = problem
            if before != problem:
                logger.warning("%s", problem)


def _changes(before: State, after: State) -> list[str]:
    found = []
    if after.live is not before.live:
        found.append(f"{after.live.version} is live now")
    if after.pinned is not before.pinned:
        found.append(f"{after.pinned.version} is pinned" if after.pinned else "no version is pinned any more")
    if after.rollout != before.rollout:
        found.append(after.rollout.sentence() if after.rollout else f"the rollout of {before.rollout.version} ended")
    if after.humans_only != before.humans_only:
        found.append(f"people look at {'every answer' if after.humans_only else 'unsure answers'} from now on")
    return found
