"""What happens in the service, for metrics: subclass `Observer` and give it to `create_app`.

Its methods are called in the event loop, in decoder threads and in the model's thread: they must be fast, must not
raise, and threads may call them at the same time.
"""

from collections.abc import Callable
from typing import Literal

from serving.live import Model
from serving.service.contracts import Answered

Role = Literal["live", "canary", "shadow"]


class Observer:
    """Told of everything; does nothing with it."""

    def started(self, waiting: Callable[[], int]) -> None:
        """The service starts; `waiting` says how many images of requests are being answered."""

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request to `route` ("/predict") got its response."""

    def refused(self, route: str, reason: str) -> None:
        """A request, or one image of it, got no answer; `reason` is one of problems.STATUS."""

    def batch(self, model: Model, role: Role, images: int, seconds: float) -> None:
        """The model computed `images` at once."""

    def answered(self, answer: Answered, cached: bool) -> None:
        """An image got its answer, also one that the client never sees (role "shadow")."""

    def model_failed(self, model: Model, role: Role, error: Exception) -> None:
        """The model raised an error on one image. A canary's image is then answered by the live model."""

    def shadow_left_out(self, model: Model) -> None:
        """An image was not shown to the model that answers unseen, because too many wait for it."""
