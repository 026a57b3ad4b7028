"""What one process of the service admits, and how it works."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Limits of one process. `flows/predictor/` reads them from params.yaml's section `predictor`."""

    decoders: int = 2  # images decoded at once
    max_batch: int = 32  # images in one call of the model
    queue: int = 256  # images of requests that are being answered; more are refused with 429
    queue_bytes: int = 256 << 20  # of the bodies of these requests
    deadline_seconds: float = 10.0  # an image that waited longer is refused with 503 and not computed
    body_seconds: float = 30.0  # to send a request's body
    max_bytes: int = 20_000_000  # of one image
    max_request_bytes: int = 64 << 20  # of one request's body
    max_images: int = 64  # in one request
    cache_bytes: int = 64 << 20  # of answers kept by content and version; 0: none
    shadow_queue: int = 64  # images that wait for the model that answers unseen; more are left out

    def __post_init__(self) -> None:
        if self.max_images > self.queue:
            raise ValueError(f"max_images = {self.max_images} is over queue = {self.queue}: no request of it could fit")
