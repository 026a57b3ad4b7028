"""What the predictor of this checkout does, for `evergreen status`, `doctor` and the console."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.server.processes import created
from tasks.common.checkout import known_checkout
from tasks.common.rebuildable import expect, read_rebuildable
from tasks.releases.switches import SwitchesDamaged, predictor_dir, read_switches, sentences


@dataclass(frozen=True)
class Running:
    """A running `evergreen serve`."""

    pid: int
    url: str
    waiting: str | None  # for a first model: what it waits for
    workers: list[dict[str, Any]]  # flows.predictor.processes.Worker.about

    @property
    def ready(self) -> int:
        """How many workers answer."""
        return sum(bool(worker["ready"]) for worker in self.workers)

    @property
    def well(self) -> bool:
        """Does it answer, or wait for a first model?"""
        return self.waiting is not None or self.ready > 0

    @property
    def restarts(self) -> int:
        """How many workers were replaced because they ended or hung."""
        return sum(worker["restarts"] for worker in self.workers)

    @property
    def versions(self) -> list[str]:
        """The versions that answer now."""
        return sorted({version for worker in self.workers for version in (worker["models"] or {}).values()})

    @property
    def problems(self) -> list[str]:
        """What its workers cannot do."""
        return sorted({problem for worker in self.workers for problem in worker["problems"] or []})

    @property
    def not_logged(self) -> int:
        """Answers that are missing in the production log."""
        return sum((worker["counters"] or {}).get("not_logged", 0) for worker in self.workers)

    def sentence(self) -> str:
        """ "v0.2.0 answers at http://127.0.0.1:4290, 2 of 2 workers"."""
        if self.waiting is not None:
            return self.waiting
        said = f"{self.url}, {self.ready} of {len(self.workers)} workers"
        return f"{' and '.join(self.versions)} at {said}" if self.ready else f"does not answer at {said}"


def running(root: Path) -> Running | None:
    """The service of this checkout; None if it does not run, or if that of the folder this is a copy of runs."""
    found = read_rebuildable(predictor_dir(root) / "service.json", _accept, "the service writes it again")
    if found is None or (own := known_checkout(root)) is None:
        return None
    service, when, checkout = found
    return service if created(service.pid) == when and checkout == own.id else None


def lines(root: Path) -> list[str]:
    """What people should know now; empty if no service runs and all switches are off."""
    found, service = [], running(root)
    if service is not None:
        found += [service.sentence(), *service.problems]
        if service.not_logged:
            found.append(f"{service.not_logged} answers are missing in the production log: its own log says why")
    try:
        found += sentences(read_switches(root))
    except SwitchesDamaged as error:
        found.append(str(error))
    return found


def _accept(about: Any) -> tuple[Running, str, str]:
    workers = [expect(worker, dict) for worker in about["workers"]]
    for worker in workers:
        expect(worker["restarts"], int)
        for name in ("ready", "models", "problems", "counters"):
            worker[name]  # a file of another version lacks it
    waiting = None if about["waiting"] is None else expect(about["waiting"], str)
    found = Running(expect(about["pid"], int), expect(about["url"], str), waiting, workers)
    return found, expect(about["created"], str), expect(about["checkout"], str)
