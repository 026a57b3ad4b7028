"""What the HTTP service asks of its surroundings, and what it hands them.

`flows/predictor/` gives it a router (which model answers), a recorder (the production log) and a feedback sink (late
labels). The service itself imports neither the log nor the project.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

import numpy as np

from serving.live import Model
from serving.predictor import Prediction


class Asked(NamedTuple):
    """One image of a request, with what its owner says about it."""

    image: bytes
    key: str | None = None  # the owner's name of it: order number, part id
    source: str | None = None  # camera, site
    path: str | None = None
    slices: Mapping[str, str] = {}  # {"product": "A7"}


class Choice(NamedTuple):
    """Which model answers an image, and which one answers it unseen."""

    model: Model
    role: Literal["live", "canary"] = "live"
    shadow: Model | None = None
    humans_only: bool = False  # a person must look at every answer


class Answered(NamedTuple):
    """One answer that was given."""

    prediction: Prediction
    model: Model
    role: Literal["live", "canary", "shadow"]
    latency_ms: float  # of the request so far: waiting, decoding, computing
    request: str  # the request's id
    at: datetime | None = None  # None: now
    pixels: np.ndarray | None = None  # (S, S, 3) uint8, what the model saw; None: not at hand


class Router(Protocol):
    """Says which model answers. Never waits for a store; threads may share it."""

    def choose(self, key: str | None, digest: str) -> Choice:
        """For the image with the owner's `key` (else its sha256 `digest`): the same key gets the same choice."""
        ...

    def models(self) -> dict[str, Model]:
        """Role ("live", "canary", "shadow") -> the model that has it now."""
        ...


class Recorder(Protocol):
    """Keeps answers. Never waits, never raises."""

    def record(self, asked: Asked, answered: Answered) -> None: ...


class Feedback(NamedTuple):
    """A true label that a client sent."""

    name: str  # an image's id (sha256) or the owner's key
    label: str | tuple[str, ...]
    who: str  # person or system that says so
    client: str  # name of the token
    why: str = ""
    at: datetime | None = None  # None: now


class FeedbackSink(Protocol):
    """Takes labels for later. Raises EvergreenError where it cannot keep one."""

    def keep(self, labels: list[Feedback]) -> None:
        """Return once `labels` are stored so that a killed process loses none of them."""
        ...
