"""Data contracts of monitoring: a window's measures, the situation, and the decision that follows."""

from typing import Literal

from pydantic import AwareDatetime

from tasks.common.checks import Check, Frozen


class Window(Frozen):
    """One period of the production log, answered by one model."""

    id: str  # "20261121T120000Z-20261121T121500Z": sorts by time, names the window's files
    start: AwareDatetime  # inclusive, UTC
    end: AwareDatetime  # exclusive
    version: str  # of the model that answered
    bundle: str  # sha256 of its manifest
    rows: int  # logged in that time
    used: int  # rows measured: a random sample if there are more than drift.max_window
    unreadable: list[str] = []  # log files that were skipped: damaged, or with another schema


class Finding(Frozen):
    """One measure of one window against the model's reference. `error` never counts as "no drift"."""

    name: str  # "image.brightness", "prediction.mix", "embedding", "missing.ood", ...
    status: Literal["ok", "drifted", "expected", "error", "info"]  # info: reported, never judged
    value: float | None = None
    threshold: float | None = None  # calibrated for this model and window size
    p_value: float | None = None
    low: float | None = None  # confidence interval of value, if there is one
    high: float | None = None
    detail: str = ""


class Measures(Frozen):
    """Everything measured of one window."""

    window: Window
    findings: list[Finding]
    mix: dict[str, float] = {}  # share of each predicted class in the window
    reference_mix: dict[str, float] = {}
    moved: list[str] = []  # ids of the window's samples least like the reference, worst first
    typical: list[str] = []  # ids of reference samples closest to the centre of their predicted class
    # names of measures that drift also without the sources that people marked as expected; None: not measured so
    elsewhere: list[str] | None = None

    def drifted(self) -> list[Finding]:
        """The findings that are drift."""
        return [finding for finding in self.findings if finding.status == "drifted"]


class Cell(Frozen):
    """One measure of one source."""

    value: float  # median, share, or distance of the mix
    was: float  # in the reference
    ratio: float | None = None  # of the distance to what chance explains; None: too few rows to say


class SourceMeasures(Frozen):
    """What was measured of one source of a window, for people: it decides nothing."""

    source: str  # "": rows that name none
    rows: int
    cells: dict[str, Cell]  # by name of the measure

    def worst(self) -> float:
        """The largest ratio of its cells."""
        return max((cell.ratio for cell in self.cells.values() if cell.ratio is not None), default=0.0)


class MovedImage(Frozen):
    """An image that is unlike the reference, beside reference images with the same answer."""

    id: str
    prediction: str
    confidence: float | None
    ood: float | None
    source: str
    beside: list[str]  # ids of reference images, the nearest first


class Bins(Frozen):
    """One number's distribution in reference and window, as shares of equal bins."""

    name: str  # of the measure
    low: float
    high: float
    was: list[float]
    now: list[float]
    median_was: float
    median_now: float


class WindowDetails(Frozen):
    """What a window's page shows besides its measures; kept with the journal, because it takes the log to compute."""

    sources: list[SourceMeasures] = []  # those that moved most first
    moved: list[MovedImage] = []
    plots: list[Bins] = []
    done: list[str] = []  # sentences about what was started because of the window


class Expected(Frozen):
    """A person's mark: what is expected to differ from the reference. It is measured and shown, and does not count."""

    id: str
    at: AwareDatetime
    by: str
    why: str
    since: AwareDatetime  # windows that end after it
    until: AwareDatetime | None = None  # and begin before it; None: until a person removes the mark
    measures: list[str] = []  # names of findings; empty: every one
    sources: list[str] = []  # empty: every one
    removed_by: str | None = None
    removed_at: AwareDatetime | None = None


class Situation(Frozen):
    """Everything a decision depends on besides the measures. All times in UTC."""

    now: AwareDatetime
    released_at: AwareDatetime  # of the live model
    last_row_at: AwareDatetime | None  # newest row in the log; None: the log is empty
    last_monitor_at: AwareDatetime | None  # the previous monitor run
    drift_retrains: list[AwareDatetime] = []  # retrainings started because of drift, at any time
    new_labels: int = 0  # labelled samples that no run has used
    queued: int = 0  # samples already waiting for a label
    accuracies: list[Finding] = []  # by late labels, of the model's weeks that have started no retraining yet
    accuracy_before: Finding | None = None  # on the reference, from an earlier window: this one may have none
    expected: list[Expected] = []  # marks of people
    paused: str | None = None  # the pause, as a sentence; None: automatic action is allowed


class DriftDecision(Frozen):
    """What to do about a window, with every check that led there."""

    outcome: Literal["none", "watch", "label", "retrain"]
    sentence: str  # for people
    checks: list[Check]
    window: str | None  # id; None: no window was measured
    alarms: list[str] = []  # sentences about silence: no samples, a monitor that did not run
    wanted: Literal["retrain"] | None = None  # what would have been decided but for a pause
