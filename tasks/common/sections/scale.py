"""The section of params.yaml about machines that share the work; it changes no result."""

import re
from typing import Literal

from pydantic import Field, field_validator

from tasks.common.section import Count, Section

ADDRESS = re.compile(r"auto|(ray://)?[A-Za-z0-9._-]+:(\d{1,5})")
BUCKET = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9.-]+(/.*)?")
PORTS, MOST_WORKERS = 65_535, 10_000


class ScaleParams(Section):
    """Which engine computes what whole shards need."""

    engine: Literal["local", "ray"] = Field(
        "local", description="local: processes of this machine; ray: the workers of a Ray cluster (extra `ray`)"
    )
    address: str | None = Field(
        None,
        description="of the Ray cluster: null: one on this machine, which starts and ends with the run; auto: the one "
        "that runs on this machine; host:6379: from a machine of that cluster; ray://host:10001: from outside",
    )
    shared: str | None = Field(
        None,
        description="place that the driver and all workers reach (folder or s3://bucket/prefix), for shards and cache "
        "entries; null: every worker sees this project's folder under the same path",
    )
    training_workers: Count = Field(
        0,
        description="most processes of the cluster that share the training of stage 1; 0: one per GPU, or without GPUs "
        "this machine alone",
    )

    @field_validator("address")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        found = value is None or ADDRESS.fullmatch(value)
        if not found or (value not in (None, "auto") and not 0 < int(found[2]) <= PORTS):
            raise ValueError(f"{value!r} is not an address: expected null, auto, host:port or ray://host:port")
        return value

    @field_validator("shared")
    @classmethod
    def _place(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip() or ("://" in value and not BUCKET.fullmatch(value))):
            raise ValueError(f"{value!r} is not a place: expected null, a folder or s3://bucket/prefix")
        return value

    @field_validator("training_workers", mode="before")
    @classmethod
    def _number(cls, value: object) -> object:
        if isinstance(value, bool) or (isinstance(value, int) and value > MOST_WORKERS):
            raise ValueError(f"{value!r} is not a number of workers: expected 0 to {MOST_WORKERS:,}")
        return value
