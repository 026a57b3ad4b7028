"""Load the challenger of a rollout. One that fails must not look like a store that is away."""

import time
from pathlib import Path

import numpy as np

from flows.predictor.known import remember
from serving.live import Model, fetch_bundle
from serving.predictor import Predictor
from tasks.common.paths import cache_dir
from tasks.common.text import one_line
from tasks.releases.rollout import Rollout
from tasks.releases.store import Releases

ATTEMPTS = 3  # before the monitor is told that it fails: this machine may have been short of memory
LONGEST_PAUSE = 60.0  # seconds between further ones


class Loader:
    """Loads challengers, for one thread."""

    def __init__(self, root: Path, threads: int):
        """threads: of ONNX Runtime."""
        self.root, self.threads = root, threads
        self.why = ""  # the challenger does not compute here
        self._id, self._attempts, self._again = "", 0, 0.0

    @property
    def failed(self) -> bool | None:
        """Does the challenger not compute here? None: it has not been tried often enough."""
        return True if self._attempts >= ATTEMPTS else (None if self.why else False)

    def load(self, releases: Releases, rollout: Rollout) -> Model | None:
        """The challenger of `rollout`; None if it fails. Raises what the store raises."""
        folder = fetch_bundle(releases, rollout.bundle, cache_dir("bundles", self.root))
        if self._id != rollout.id:
            self._id, self._attempts, self._again, self.why = rollout.id, 0, 0.0, ""
        if time.monotonic() < self._again:
            return None
        try:
            model = warmed(Model(Predictor(folder, self.threads, rollout.bundle), rollout.version))
        except Exception as error:  # whatever it raises on one black image, it would on every image
            self._attempts += 1
            self.why = one_line(f"{type(error).__name__}: {error}", 300)
            self._again = time.monotonic() + (LONGEST_PAUSE if self.failed else 0.0)
            return None
        self._attempts, self.why = 0, ""
        remember(self.root, rollout.version, rollout.bundle, live=False)
        return model


def warmed(model: Model) -> Model:
    """`model` after a first computation: the first one allocates, which a request would wait for."""
    side = model.predictor.about["preprocess"]["resolution"]
    model.predictor.predict_pixels(np.zeros((1, side, side, 3), np.uint8))
    return model
