"""Sections of params.yaml about storage, production, drift, decisions, reviews and services."""

import ipaddress
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from tasks.common.section import Count, Positive, Section, Share


class StoreParams(Section):
    """Where releases are stored."""

    url: str = Field(
        ".evergreen/releases",
        description="release store: a folder (relative to the main checkout) or s3://bucket/prefix",
    )
    endpoint_url: str | None = Field(None, description="of an S3-compatible server; null: AWS")
    single_writer: bool = Field(
        False,
        description="true: accept an S3 server without conditional writes, and promise that one process at a time "
        "publishes; false: such a server is refused",
    )


class CaptureParams(Section):
    """Which answers the production log stores, and for how long."""

    url: str = Field(
        ".evergreen/production", description="the log: a folder (relative to the main checkout) or s3://bucket/prefix"
    )
    sample: Share = Field(1.0, description="share of answers that is logged, chosen by image id")
    images: Literal["full", "thumbnail"] = Field(
        "full",
        description="full: encoded bytes, so that a labelled sample can be trained on; thumbnail: 64 pixels only",
    )
    buffer_rows: Positive = Field(256, description="answers held in memory until they are written as one file")
    flush_seconds: Annotated[float, Field(gt=0)] = Field(10.0, description="an unfilled buffer is written after this")
    max_per_source_per_hour: Positive = Field(10_000, description="further answers of a source are counted, not kept")
    keep_days: Positive = Field(90, description="older files are removed by housekeeping")
    keep_gb: Annotated[float, Field(gt=0)] = Field(20.0, description="then the oldest, until the log is this small")


class DriftParams(Section):
    """How one window of production is measured against the model's own frozen reference."""

    max_window: Positive = Field(
        2_000,
        description="rows of a window that are measured (a random sample of more); never more than the reference has",
    )
    false_alarm_rate: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.01, description="share of windows without drift that may show any drift at all, over all measures together"
    )
    resamples: Positive = Field(
        2_000, description="windows without drift drawn to calibrate one model's thresholds, once for each window size"
    )
    seed: Count = 0


class DecideParams(Section):
    """How drift measures become one decision: none, watch, label or retrain."""

    min_rows: Positive = Field(30, description="smaller windows decide nothing")
    persistence: tuple[Positive, Positive] = Field(
        (2, 3), description="k of the last n windows must have drifted before anything but `watch` is decided"
    )
    warm_up_hours: Annotated[float, Field(ge=0)] = Field(
        0.0, description="nothing but `watch` this long after a release"
    )
    cooldown_hours: Annotated[float, Field(ge=0)] = Field(24.0, description="between two retrainings because of drift")
    max_per_day: Positive = Field(1, description="retrainings because of drift in 24 hours")
    min_new_labels: Positive = Field(50, description="labelled samples since the last release that a retrain needs")
    new_labels: Positive = Field(1_000, description="so many new labels start a retrain without any drift")
    max_accuracy_drop: Share = Field(0.1, description="fall of accuracy on late labels (interval) that retrains")
    max_age_days: Positive = Field(180, description="an older model is retrained when there are new labels")
    max_silence_minutes: Positive = Field(120, description="no sample, or no monitor run, this long is an alarm")
    rollback_drop: Share = Field(
        0.15,
        description="a new champion whose accuracy on late labels is surely this much below its predecessor's is "
        "rolled back; 1: never",
    )


PickMethod = Literal[
    "random", "uncertainty", "margin", "class_margin", "diverse", "class_diverse", "badge", "dropquery", "typiclust"
]  # tasks.active.methods


class ReviewParams(Section):
    """How many samples the review queue gets, and from which sources."""

    budget: Positive = Field(100, description="samples put into the queue by one decision")
    method: PickMethod = Field(
        "diverse", description="how images are picked for labelling; without a model always typiclust"
    )
    min_gain: Share = Field(
        0.001, description="balanced accuracy (0..1) that more labels must be able to bring; below it: enough labels"
    )
    max_source_share: Annotated[float, Field(gt=0, le=1)] = Field(0.25, description="of the budget, per source")
    audit_per_day: Annotated[float, Field(ge=0)] = Field(
        20.0,
        description="answers a day, on average, that are drawn at random for labelling: only these measure the model; "
        "0: none",
    )
    audit_per_source: Annotated[float, Field(ge=0)] = Field(
        1.0, description="of these, at least so many a day and source, on average, for the 50 largest sources"
    )


class ReportParams(Section):
    """Drift reports for the browser."""

    rows: Positive = Field(500, description="sampled rows an Evidently snapshot holds")
    images: Positive = Field(12, description="images shown that moved most, and as many typical ones")
    keep: Positive = Field(5_000, description="reports kept; the oldest go first")


class ServeParams(Section):
    """What `evergreen up` starts: schedules (cron, UTC) and pages (loopback unless `host` says otherwise)."""

    retrain_cron: str = Field("0 2 * * *", description="nightly retrain; does nothing when nothing is new")
    monitor_minutes: Positive = Field(15, description="a window is measured this often")
    reevaluate_cron: str = Field("0 4 * * 1", description="weekly evaluation on late labels")
    housekeeping_cron: str = Field("30 3 * * *", description="retention, sweeps")
    pool: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",
        description="Prefect work pool whose workers run the four flows; null: `evergreen up` runs them itself",
    )
    host: str = Field("127.0.0.1", description="address the pages listen on; anything but loopback needs a password")
    hosts: list[str] = Field(
        [], description="names under which browsers reach this machine, besides its own; with `host` beyond loopback"
    )
    public_url: str | None = Field(
        None,
        description="address at which people reach the console, for links in alerts: https://evergreen.example.com; "
        "null: what it listens on, by the machine's name where that is 0.0.0.0",
    )
    user_header: str | None = Field(
        None, description="header in which a proxy of `proxies` names the person that it signed in; null: none is read"
    )
    proxies: list[str] = Field([], description="addresses or networks of proxies that may send `user_header`")
    port: Positive = Field(4280, description="of the console; a free one is taken when it is in use")
    evidently_port: Positive = Field(4281, description="of the Evidently UI, likewise")
    prefect_port: Positive = Field(4200, description="of the project's Prefect server, likewise")
    password_env: str = Field("EVERGREEN_PASSWORD", description="environment variable with the pages' password")
    webhook_secret_env: str = Field("EVERGREEN_WEBHOOK_SECRET", description="environment variable with the HMAC key")
    database_env: str = Field(
        "EVERGREEN_DATABASE_URL", description="environment variable with a Postgres URL for the Prefect server"
    )

    @field_validator("public_url")
    @classmethod
    def _address(cls, url: str | None) -> str | None:
        """`url` without a slash at its end."""
        if url is None:
            return None
        try:
            parts = urlsplit(url)
            wrong = parts.port == 0 or not parts.hostname or not url.isprintable() or " " in url
        except ValueError:  # a port that is not a number, an unclosed bracket
            wrong = True
        if wrong or parts.scheme not in ("http", "https"):
            raise ValueError(f"{url!r} is not an address: expected e.g. https://evergreen.example.com")
        if parts.path.strip("/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError(
                f"{url!r} has more than scheme, name and port: expected e.g. {parts.scheme}://{parts.hostname}"
            )
        usual = {"http": 80, "https": 443}[parts.scheme]  # which browsers leave out
        netloc = parts.netloc.lower().removesuffix(f":{usual}").removesuffix(":")
        return f"{parts.scheme}://{netloc}"

    @field_validator("proxies")
    @classmethod
    def _networks(cls, given: list[str]) -> list[str]:
        for one in given:
            try:
                ipaddress.ip_network(one, strict=False)
            except ValueError:
                raise ValueError(
                    f"{one!r} is not an address or a network: expected e.g. 10.0.0.7 or 10.0.0.0/24"
                ) from None
        return given

    @field_validator("user_header")
    @classmethod
    def _header(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name):
            raise ValueError(f"{name!r} is not the name of a header: expected e.g. X-Forwarded-User")
        if name is not None and name.lower() in ("authorization", "cookie", "host", "origin"):
            raise ValueError(f"{name} means something else: expected e.g. X-Forwarded-User")
        return name


class AlertsParams(Section):
    """Which events send alerts. Addresses hold secrets, so they come from the environment."""

    urls_env: str = Field("EVERGREEN_ALERTS", description="environment variable with apprise URLs, space-separated")
    events: list[
        Literal["watch", "label", "retrain", "silence", "promoted", "held", "rejected", "refused", "failed", "rollback"]
    ] = ["label", "retrain", "silence", "promoted", "held", "rejected", "refused", "failed", "rollback"]
