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

    @property
    def is_floor(self) -> bool:
        """Is it a figure with a floor? Its detail begins with its state: met, unproven, below, missed."""
        return self.name.startswith(("floor.", "worst_source.")) and not self.name.endswith(".kept")

    @property
    def is_difference(self) -> bool:
        """Is it a comparison with the champion? Its detail begins with what was found."""
        return (
            self.value is not None and self.low is not None and not self.name.endswith(".skill") and not self.is_floor
        )
