"""The record of one check in a decision, shared by the gate and the drift decision."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """An immutable model that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Check(Frozen):
    """One check of a decision, with value and bound. An error is never a pass."""

    name: str  # e.g. "test.balanced_accuracy", "class.Bag.recall", "parity"
    status: Literal["pass", "fail", "error"]
    value: float | None = None
    bound: float | None = None
    low: float | None = None  # confidence interval of value
    high: float | None = None
    detail: str = ""
