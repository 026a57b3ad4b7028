"""A rollout for people and pages: its state, what production shows, what would follow."""

from datetime import UTC, datetime
from pathlib import Path

from flows.publishing.history import open_project
from flows.rollout.begin import waiting_runs
from flows.rollout.decide import Decision, decide
from flows.rollout.evidence import Evidence, StepEvidence
from flows.rollout.measure import measure
from tasks.common.checks import Frozen
from tasks.releases.pause import pause_of
from tasks.releases.rollout import Rollout, newest


class Status(Frozen):
    """The newest rollout. evidence and decision: None where it has ended, or none has begun yet."""

    rollout: Rollout | None = None
    evidence: Evidence | None = None
    decision: Decision | None = None
    waiting: tuple[str, ...] = ()  # runs that passed the gate and whose rollout has not begun
    paused: str | None = None

    def lines(self) -> list[str]:
        """For the terminal."""
        found = [f"{self.paused}: nothing goes on by itself"] if self.paused else []
        found += [f"{run} waits for its rollout; the next monitor run begins it" for run in self.waiting]
        if self.rollout is None:
            return [*found, "no rollout has begun yet: release.strategy in params.yaml says how models go live"]
        found += [f"{end.share:.0%} since {end.since:%Y-%m-%d %H:%M}: {end.why}" for end in self.rollout.done]
        found.append(self.rollout.sentence())
        if self.evidence is not None and self.decision is not None:
            found += _arms(self.rollout, self.evidence.steps[-1])
            found += [f"  {check.status}  {check.detail}" for check in self.decision.checks]
            word = {"roll_back": "roll back", "give_up": "stop"}.get(self.decision.outcome, self.decision.outcome)
            found.append(f"the monitor would {word}: {self.decision.sentence}")
        return found


def status(root: Path, now: datetime | None = None) -> Status:
    """The rollout of the project at `root`, measured now. Changes nothing. Raises what the stores raise."""
    now = now or datetime.now(UTC)
    params, releases = open_project(root)
    rollout, pause = newest(releases), pause_of(releases, now)
    about = {"waiting": waiting_runs(releases), "paused": pause.sentence() if pause else None}
    if rollout is None or rollout.ended is not None:
        return Status(rollout=rollout, **about)
    evidence = measure(root, params, releases, rollout, now)
    return Status(rollout=rollout, evidence=evidence, decision=decide(rollout, evidence, params.release), **about)


def _arms(rollout: Rollout, step: StepEvidence) -> list[str]:
    """One line for each model: requests, review share, confidence, latency."""
    lines = []
    for version, arm in ((rollout.champion, step.live), (rollout.version, step.new)):
        said = f"  {version}: {arm.n:,} requests"
        if arm.n:
            said += f", review {arm.review / arm.n:.1%}"
        if arm.confidence is not None:
            said += f", confidence {arm.confidence:.2f}"
        if arm.latency_ms is not None:
            said += f", {arm.latency_ms:.0f} ms"
        lines.append(said)
    if rollout.strategy == "shadow" and step.new.n:
        lines.append(f"  the same answer to {step.agree / step.new.n:.1%} of the images")
    return lines
