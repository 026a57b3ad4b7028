"""What the parts of monitoring hand to each other: a window's measures, and the decision they lead to."""

from typing import Literal

from pydantic import AwareDatetime

from tasks.common.checks import Check, Frozen


class Window(Frozen):
    """A stretch of the production log answered by one model."""

    id: str  # "20261121T120000Z-20261121T121500Z": sorts by time, names its files
    start: AwareDatetime  # inclusive, UTC
    end: AwareDatetime  # exclusive
    version: str  # of the model that answered
    bundle: str  # sha256 of its manifest
    rows: int  # logged in that time
    used: int  # measured: a random sample where there are more than drift.max_window
    unreadable: list[str] = []  # log files that were skipped: torn, or of another schema


class Finding(Frozen):
    """One measure of one window against the model's reference. `error` is never read as "no drift"."""

    name: str  # "image.brightness", "prediction.mix", "embedding", "missing.ood", ...
    status: Literal["ok", "drifted", "error", "info"]  # info: reported, never judged
    value: float | None = None
    threshold: float | None = None  # calibrated for this model and window size
    p_value: float | None = None
    low: float | None = None  # confidence interval of value, where there is one
    high: float | None = None
    detail: str = ""


class Measures(Frozen):
    window: Window
    findings: list[Finding]
    mix: dict[str, float] = {}  # share of each predicted class in the window
    reference_mix: dict[str, float] = {}
    moved: list[str] = []  # ids of the window's samples least like the reference, worst first
    typical: list[str] = []  # ids of reference samples most like the reference's middle

    def drifted(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.status == "drifted"]


class Situation(Frozen):
    """What a decision depends on beside the measures. All times UTC."""

    now: AwareDatetime
    released_at: AwareDatetime  # of the live model
    last_row_at: AwareDatetime | None  # newest row in the log; None: there has never been one
    last_monitor_at: AwareDatetime | None  # the monitor run before this one
    drift_retrains: list[AwareDatetime] = []  # started because of drift, any time
    new_labels: int = 0  # labelled samples that no run has seen
    queued: int = 0  # samples that wait for a label already


class DriftDecision(Frozen):
    outcome: Literal["none", "watch", "label", "retrain"]
    sentence: str  # for a person
    checks: list[Check]
    window: str | None  # id; None: there was no window to look at
    alarms: list[str] = []  # sentences about silence: no samples, a monitor that did not run
