"""The three questions of a manager about a run, answered from verdict and live model.

Pure: facts in, sentences out. The gate decides; nothing is judged here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flows.release_report.figures import points
from monitoring.live.periods import Period
from monitoring.pages.live import FEW
from monitoring.plain_names import plain_name
from tasks.common.checks import Check
from tasks.gate.verdict import GateVerdict

MOST = 6  # checks named in an answer
UNSURE = ("perhaps worse", "below", "unproven")  # words of failed checks that luck may explain
WINDOWS = 20  # of the live version, for its trend


@dataclass(frozen=True)
class Answer:
    """A word, a sentence, and the checks behind it. tone: good, warn, bad or "" (neither)."""

    word: str
    tone: str
    text: str
    checks: list[Check] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        return [said(check) for check in self.checks[:MOST]]

    @property
    def more(self) -> int:
        return max(0, len(self.checks) - MOST)


def said(check: Check) -> str:
    """A check in a line: "balanced accuracy of the test set: +2.3 points (+0.4 to +4.1)"."""
    name = plain_name(check.name)
    name = name[:1].upper() + name[1:]
    if check.is_difference:
        interval = f" ({points(check.low)} to {points(check.high)})" if check.high is not None else ""
        return f"{name}: {points(check.value)} points{interval}"
    return f"{name}: {check.detail}" if check.detail else name


def better(verdict: GateVerdict) -> Answer:
    """Is it better?"""
    if errors := [check for check in verdict.checks if check.status == "error"]:
        return Answer("Cannot be told", "bad", "The gate could not judge it.", errors)
    if verdict.champion is None:
        shown = [check for check in verdict.checks if check.name.endswith(".skill")]
        good = all(check.status == "pass" for check in shown)
        text = "Nothing was live: it is compared with chance." if shown else "Nothing was live to compare it with."
        return Answer("It is the first model" if good else "Not better than chance", "" if good else "bad", text, shown)
    gains = [check for check in verdict.checks if check.is_difference and word_of(check) == "better"]
    if gains:
        return Answer("Yes", "good", f"Better than {verdict.champion}, beyond what luck explains.", gains)
    tried = [check for check in verdict.checks if check.is_difference and word_of(check) == "not shown to be better"]
    tried = tried or [check for check in verdict.checks if check.is_difference][:1]
    return Answer("Not shown", "warn", f"No gain over {verdict.champion} that luck cannot explain.", tried)


def worse(verdict: GateVerdict) -> Answer:
    """Is anything worse?"""
    losses = [
        check for check in verdict.checks if check.status == "fail" and word_of(check) != "not shown to be better"
    ]
    sure = [check for check in losses if word_of(check) not in UNSURE]
    maybe = [check for check in losses if word_of(check) in UNSURE]
    warnings = [check for check in verdict.checks if check.detail.startswith(("warning:", "provisional:", "unproven:"))]
    if sure:
        number = "One thing" if len(sure) == 1 else f"{len(sure)} things"
        return Answer("Yes", "bad", f"{number} got worse, or misses a bound.", sure + maybe)
    if maybe:
        text = "These lost more than the margin, and luck may not explain it."
        if all(check.is_floor for check in maybe):
            text = "Whether these figures reach their floor is not shown."
        return Answer("Perhaps", "warn", text, maybe)
    if warnings:
        return Answer("No, but", "warn", "Every bound that forbids a promotion holds; the gate warns of:", warnings)
    differences = [check for check in verdict.checks if check.is_difference]
    open_ones = [one for one in differences if one.status == "pass" and one.bound is not None and one.value < one.bound]
    if open_ones:
        text = "These came out below their margin, by too few images to tell from luck. Every bound holds."
        return Answer("Not shown", "warn", text, open_ones)
    compared = len(differences)
    text = f"None of {compared} comparisons lost more than its margin, and every bound holds."
    return Answer("No", "good", text if compared else "Every bound holds.")


def word_of(check: Check) -> str:
    """What a comparison found: better, worse, perhaps worse, not worse, not shown to be better."""
    return check.detail.partition(":")[0]


@dataclass(frozen=True)
class Meanwhile:
    """What goes on without a decision."""

    live: str | None  # version
    next_run: datetime | None  # of the schedule
    running: bool  # the services
    paused: str = ""  # the pause, in words
    weeks: Sequence[Period] = ()  # of the live model, with enough labels, oldest first
    drifted: int = 0  # of its newest windows
    windows: int = 0


def nothing(about: Meanwhile) -> list[str]:
    """What if I do nothing? A sentence each about what stays live, the next retraining and how the live model does."""
    found = [f"{about.live} stays live; this run goes on waiting." if about.live else "Nothing goes live."]
    if about.paused:
        found.append(f"Evergreen is {about.paused}: no retraining starts by itself.")
    elif about.next_run:
        when = f"{about.next_run.day} {about.next_run:%b, %H:%M} UTC"
        found.append(
            f"The next scheduled retraining is on {when}; it does nothing unless data, settings or code are new."
        )
    elif not about.running:
        found.append("The services are not running: no retraining starts by itself.")
    weeks = [one.accuracy for one in about.weeks if one.accuracy is not None and one.accuracy.used >= FEW]
    if about.live and weeks:
        newest = weeks[-1]
        line = f"{about.live} was right in {100 * newest.low:.0f} to {100 * newest.high:.0f} % of its answers lately"
        if len(weeks) > 1:
            line += f", {trend_of(weeks[-2].value, newest.value)} the week before"
        found.append(line + ".")
    elif about.live:
        found.append(f"How often {about.live} is right in production is not known: no labels for its answers yet.")
    if about.live and about.windows:
        found.append(f"{about.drifted} of its last {about.windows} windows drifted.")
    return found


def trend_of(before: float, now: float) -> str:
    """ "2.0 points less than", "as in": how a share moved, in points of 100."""
    change = round(100 * (now - before), 1)
    return "as in" if abs(change) < 0.1 else f"{abs(change):.1f} points {'more' if change > 0 else 'less'} than"
