"""Sections of params.yaml about the HTTP predictor and about how a new model goes live."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tasks.common.section import Positive, Section, Share

Seconds = Annotated[float, Field(gt=0)]


class PredictorParams(Section):
    """`evergreen serve`: the HTTP service that answers with the live model."""

    host: str = Field(
        "127.0.0.1", description="address that the service listens on; every route but health needs a token"
    )
    port: Positive = Field(4290, description="of the service; it does not start where another program has it")
    workers: Positive = Field(2, description="processes that answer; each has the model in memory")
    threads: Positive = Field(1, description="of ONNX Runtime in each process")
    decoders: Positive = Field(2, description="images decoded at once in each process")
    max_batch: Positive = Field(32, description="images in one call of the model")
    queue: Positive = Field(256, description="images waiting in one process; more are answered 429 with Retry-After")
    deadline_seconds: Seconds = Field(10.0, description="an image that waited longer is answered 503 and not computed")
    max_bytes: Positive = Field(20_000_000, description="of one image; a request may hold `max_images` of them")
    max_images: Positive = Field(64, description="in one request")
    cache_mb: Annotated[int, Field(ge=0)] = Field(64, description="answers kept by content and version; 0: none")
    requests_per_minute: Annotated[int, Field(ge=0)] = Field(
        0, description="of one client (its token), by all processes together; more are answered 429; 0: no limit"
    )
    feedback_per_hour: Positive = Field(1_000, description="labels that one client may send in an hour")
    refresh_seconds: Seconds = Field(5.0, description="between two looks at what is live")
    with_up: bool = Field(False, description="true: `evergreen up` starts it, too, and restarts it")

    @model_validator(mode="after")
    def _fits(self) -> "PredictorParams":
        if self.max_images > self.queue:
            raise ValueError(
                f"max_images {self.max_images} is over queue {self.queue}: no request of so many could fit"
            )
        return self


class ReleaseParams(Section):
    """How a model that the gate promotes goes live."""

    strategy: Literal["direct", "shadow", "canary"] = Field(
        "direct",
        description="direct: at once; shadow: it first answers the same traffic unseen; canary: it first answers a "
        "growing share of the traffic. The last two need `evergreen serve`",
    )
    steps: list[Share] = Field(
        [0.05, 0.25, 0.5], description="shares of the traffic of a canary, in order, before all of it"
    )
    min_requests: Positive = Field(500, description="answers by the new model before a step can end well")
    min_hours: Annotated[float, Field(ge=0)] = Field(1.0, description="that a step takes at least")
    max_hours: Annotated[float, Field(gt=0)] = Field(
        168.0, description="that a step waits for `min_requests`; then the rollout ends, and a person decides"
    )
    max_error_rate: Share = Field(0.01, description="failed answers above the live model's share that end a rollout")
    max_latency_ratio: Annotated[float, Field(gt=1)] = Field(
        2.0, description="median time of the model per image, over the live model's, that ends a rollout"
    )
    false_rollback_rate: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.02, description="share of equally good models that a whole rollout may roll back by chance"
    )

    @model_validator(mode="after")
    def _rising(self) -> "ReleaseParams":
        if not self.steps or self.steps != sorted(set(self.steps)) or self.steps[0] <= 0 or self.steps[-1] >= 1:
            raise ValueError(f"steps {self.steps}: expected rising shares above 0 and below 1, e.g. [0.05, 0.25, 0.5]")
        return self
