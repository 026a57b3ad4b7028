"""Answers by content and model, so that the same bytes are computed once."""

import threading
from collections import OrderedDict

from serving.predictor import Prediction

OVERHEAD = 1_000  # bytes of an entry besides its numbers
PROBABILITY = 32  # bytes of a Python float in a tuple


class AnswerCache:
    """The answers used last, of at most `limit` bytes. Threads may share it.

    Bounded by an estimate of their size. An answer of another model is never found: its bundle is part of the name.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self.bytes = 0
        self._kept: OrderedDict[tuple[str, str], Prediction] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, image: str, bundle: str) -> Prediction | None:
        """The answer to the bytes with the sha256 `image`, by the bundle with the digest `bundle`."""
        with self._lock:
            found = self._kept.get((image, bundle))
            if found is not None:
                self._kept.move_to_end((image, bundle))
            return found

    def put(self, image: str, bundle: str, prediction: Prediction) -> None:
        """Keep an answer; forget those not used for longest."""
        size = size_of(prediction)
        if size > self.limit:
            return
        with self._lock:
            if (old := self._kept.pop((image, bundle), None)) is not None:
                self.bytes -= size_of(old)
            self._kept[image, bundle] = prediction
            self.bytes += size
            while self.bytes > self.limit:
                self.bytes -= size_of(self._kept.popitem(last=False)[1])

    def __len__(self) -> int:
        return len(self._kept)


def size_of(prediction: Prediction) -> int:
    """About how many bytes of memory an answer takes."""
    numbers = PROBABILITY * len(prediction.probabilities or ())
    return OVERHEAD + numbers + (prediction.features.nbytes if prediction.features is not None else 0)
