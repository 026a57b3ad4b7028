"""Follow the live model: load a new champion in the background, then swap it in without a restart.

live = Live(open_store(params.store, root), root / ".evergreen/cache/bundles")
predictor, version = live.model
"""

import logging
import threading
import time
from pathlib import Path
from typing import NamedTuple

from serving.predictor import Predictor
from tasks.common.errors import EvergreenError
from tasks.common.files import locked
from tasks.common.private import make_folder
from tasks.releases.nothing_live import nothing_live
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases

FETCH_SECONDS = 600.0  # for a large bundle from a slow store

logger = logging.getLogger("evergreen.live")


class Model(NamedTuple):
    """A loaded model and its version."""

    predictor: Predictor
    version: str  # "v0.2.0"


def fetch_bundle(releases: Releases, digest: str, bundles: Path) -> Path:
    """The folder of bundle `digest` in the cache `bundles`, fetched if it is missing there.

    One process fetches it while the others wait: those of a service all start to want it in the same second.
    """
    make_folder(bundles)
    with locked(bundles / f".{digest}.lock", FETCH_SECONDS, f"the bundle {digest[:12]}"):
        return releases.get_bundle(digest, bundles / digest)


class Live:
    """Follows champion.json. Threads may share it.

    No caller waits for the pointer or for a model to load.
    """

    def __init__(self, releases: Releases, bundles: Path, every: float = 10.0, threads: int = 1):
        """Load the live model. Raises EvergreenError if nothing has been released yet.

        bundles: cache of bundles, by digest. every: seconds between two reads of the pointer. threads: of ONNX Runtime.
        """
        self._releases, self._bundles, self.every, self._threads = releases, bundles, every, threads
        pointer = releases.live()
        if pointer is None:
            raise EvergreenError(nothing_live(releases))
        self._model, self._bundle = self._load(pointer), pointer.bundle
        self._checked_at = time.monotonic()
        self._checking = threading.Lock()

    @property
    def model(self) -> Model:
        """The newest model loaded so far; starts a background read of the pointer if the last one is old."""
        if time.monotonic() - self._checked_at > self.every and self._checking.acquire(blocking=False):
            threading.Thread(target=self._check, name="evergreen-live", daemon=True).start()
        return self._model

    @property
    def bundle(self) -> str:
        """The digest by which the release store knows the newest model's bundle: its folder in the cache."""
        return self._bundle

    def refresh(self) -> Model:
        """Read the pointer now.

        If the store fails, is empty or a bundle is damaged, this raises and the old model stays.
        """
        pointer = self._releases.live()
        if pointer is None:  # as the empty folder that a lost mount leaves
            raise EvergreenError("the release store is empty, as if it were moved or not mounted")
        if pointer.version != self._model.version:
            self._model, self._bundle = self._load(pointer), pointer.bundle
            logger.info("%s is live now", pointer.version)
        return self._model

    def _check(self) -> None:
        try:
            self.refresh()
        except Exception as error:  # a store that is down must not stop answers: the loaded model keeps answering
            logger.warning("cannot read which model is live, %s keeps answering: %s", self._model.version, error)
        finally:
            self._checked_at = time.monotonic()
            self._checking.release()

    def _load(self, pointer: Pointer) -> Model:
        folder = fetch_bundle(self._releases, pointer.bundle, self._bundles)
        return Model(Predictor(folder, self._threads, pointer.bundle), pointer.version)
