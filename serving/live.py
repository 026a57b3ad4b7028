"""The model that is live, followed while it changes: a new champion is loaded beside the old one, then they swap.

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
from tasks.releases.store import Pointer, Releases

logger = logging.getLogger("evergreen.live")


class Model(NamedTuple):
    predictor: Predictor
    version: str  # "v0.2.0"


class Live:
    """Follows champion.json. Threads may share it; nobody waits for a look at the pointer or for a model to load."""

    def __init__(self, releases: Releases, bundles: Path, every: float = 10.0, threads: int = 1):
        """Load what is live. bundles: where bundles are kept, by digest. every: seconds between two looks at the
        pointer. threads: of ONNX Runtime. Raises EvergreenError when nothing has been released yet."""
        self._releases, self._bundles, self.every, self._threads = releases, bundles, every, threads
        pointer = releases.live()
        if pointer is None:
            raise EvergreenError("no model is live yet: `evergreen retrain` makes and publishes the first one")
        self._model = self._load(pointer)
        self._looked = time.monotonic()
        self._looking = threading.Lock()

    @property
    def model(self) -> Model:
        """The newest model known. Starts a look at the pointer in the background when the last one is old."""
        if time.monotonic() - self._looked > self.every and self._looking.acquire(blocking=False):
            threading.Thread(target=self._look, name="evergreen-live", daemon=True).start()
        return self._model

    def refresh(self) -> Model:
        """Look at the pointer now. Raises what the store or a damaged bundle raises; the old model then stays."""
        pointer = self._releases.live()
        if pointer is not None and pointer.version != self._model.version:
            self._model = self._load(pointer)
            logger.info("%s is live now", pointer.version)
        return self._model

    def _look(self) -> None:
        try:
            self.refresh()
        except Exception as error:  # a store that is down must not cost answers: the model at hand goes on
            logger.warning("cannot see what is live, %s goes on answering: %s", self._model.version, error)
        finally:
            self._looked = time.monotonic()
            self._looking.release()

    def _load(self, pointer: Pointer) -> Model:
        folder = self._releases.get_bundle(pointer.bundle, self._bundles / pointer.bundle)
        return Model(Predictor(folder, self._threads), pointer.version)
