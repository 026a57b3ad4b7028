"""`evergreen experiment`: make the planned experiments, one by one or several at once on a cluster.

Each has a workspace and a process of its own, as a run has.

An experiment that the table has is not made again: same inputs at HEAD, same changes, same champion. So a command that
was killed goes on where it was when it is given again. Every experiment is judged against the champion that was live
when the command began.
"""

import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from flows.experiments.plan import experiment_key, name_of, spoken
from flows.experiments.settings import with_settings
from flows.experiments.trial import INTERRUPTED, Ended, Trial, run_here, run_on_ray
from flows.publishing.experiment_table import Row, rows
from flows.repo import run_inputs, workspace
from flows.runs.launch import complete_killed_runs
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path
from tasks.common.params import load_params, load_run_params, parse_params, parse_text
from tasks.common.person import person
from tasks.releases.pointer import Pointer
from tasks.releases.store import open_store


@dataclass
class Made:
    """What one command made: rows of the table (known ones, too), and the experiments that failed with why."""

    rows: list[Row] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    out_of_time: bool = False


@dataclass(frozen=True)
class Setup:
    """What all experiments of one command share."""

    root: Path
    key: str  # the input key of HEAD
    tombstones: dict
    text: str  # params.yaml
    champion: Pointer | None
    by: str


def prepare(root: Path) -> Setup:
    """Check that experiments can be made at HEAD. Raises EvergreenError where a run would."""
    run_inputs.refuse_dirty(root)
    workspace.check_code_and_state(root)
    load_run_params(root / "params.yaml")
    key, tombstones, _ = run_inputs.current_inputs(root)
    champion = open_store(load_params(root / "params.yaml").store, root).live()
    text = (root / "params.yaml").read_text(encoding="utf-8")
    return Setup(root, key, tombstones, text, champion, person(root))


def make_all(
    setup: Setup, planned: Iterable[dict[str, Any]], minutes: float | None = None, say=print, out: TextIO | None = None
) -> Made:
    """Make each of `planned` (changes) that the table lacks, until the time is over.

    minutes: no experiment starts that would end later, if it takes as long as the slowest so far. The first one always
    starts. out: where their processes print; None: standard output. With `scale.engine: ray` several are made at once,
    on the workers of the cluster. Raises KeyboardInterrupt after Ctrl-C, and EvergreenError for settings that
    params.yaml cannot have.
    """
    complete_killed_runs(setup.root, say)
    scale = parse_params(parse_text(setup.text)).scale
    making = _Making(setup, minutes, say, alone=scale.engine == "ray")
    trials = making.trials(planned)
    try:
        for ended in run_on_ray(trials, scale, say) if making.alone else run_here(trials, out):
            making.end(ended)
    finally:
        making.close()
    return making.made


class _Making:
    """The experiments of one command: which are to be made, and what came out, in the order in which they were planned.

    alone: each is a task of a cluster, so it asks no cluster for workers itself.
    """

    def __init__(self, setup: Setup, minutes: float | None, say, alone: bool):
        self.setup, self.minutes, self.say, self.alone = setup, minutes, say, alone
        self.made, self.began, self.slowest = Made(), time.monotonic(), 0.0
        self.waiting: deque[Trial | Row] = deque()

    def trials(self, planned: Iterable[dict[str, Any]]) -> Iterator[Trial]:
        """Yield what has to be made, while there is time for it."""
        tried: list[Any] = []
        for changes in planned:
            text = with_settings(self.setup.text, changes)
            params = parse_params(parse_text(text))
            if params in tried:
                continue  # another way to say the same settings
            tried.append(params)
            champion = self.setup.champion
            key = experiment_key(self.setup.key, changes, champion.bundle if champion else None)
            if known := find(self.setup.root, key):
                self.say(f"{known.name}: {spoken(changes)}: made before, on commit {known.baseline[:8]}")
                self._add(known)
                continue
            if not fits(time.monotonic() - self.began, self.slowest, self.minutes):
                self.made.out_of_time = True
                return
            name = name_of(changes, key)
            self.say(f"{name}: {spoken(changes)}")
            with ExitStack() as held:
                flight = held.enter_context(run_inputs.lock_inputs(self.setup.root, key, self.say))
                if found := find(self.setup.root, key):
                    self._add(found)
                    continue
                trial = self._begin(name, changes, key, text, flight)
                trial.held.push(held.pop_all())
            self.waiting.append(trial)
            yield trial

    def _begin(self, name: str, changes: dict, key: str, text: str, flight: int) -> Trial:
        setup = self.setup
        about = {"name": name, "changes": changes, "key": key, "inputs": setup.key, "by": setup.by}
        champion = setup.champion.model_dump(mode="json", by_alias=True) if setup.champion else None
        asked = {"about": about, "champion": champion, "alone": self.alone}
        return Trial.begin(setup.root, setup.tombstones, asked, text, f"experiment {name}: {spoken(changes)}", flight)

    def end(self, ended: Ended) -> None:
        """Take the result of the oldest trial."""
        if ended.code == INTERRUPTED:
            raise KeyboardInterrupt
        trial = self.waiting.popleft()
        self.slowest = max(self.slowest, ended.seconds)
        found = trial.result(ended.code)
        trial.close()
        if isinstance(found, Row):
            self.made.rows.append(found)
            self.say(f"  {trial.name}: {found.sentence}")
        else:
            self.made.failed.append((trial.name, found))
            self.say(f"  {trial.name} failed: {found}")
        self._settle()

    def _add(self, row: Row) -> None:
        """Add a row that was made before, after those that are being made."""
        self.waiting.append(row)
        self._settle()

    def _settle(self) -> None:
        while self.waiting and isinstance(self.waiting[0], Row):
            self.made.rows.append(self.waiting.popleft())

    def close(self) -> None:
        """Give up what was not ended."""
        for one in self.waiting:
            if isinstance(one, Trial):
                one.close()
        self.waiting.clear()


def fits(spent: float, slowest: float, minutes: float | None) -> bool:
    """Whether one more experiment ends in time, if it takes as long as the slowest so far (seconds; 0.0: none yet)."""
    return minutes is None or not slowest or spent + slowest <= 60 * minutes


def check_settings(setup: Setup, planned: Iterable[dict[str, Any]]) -> None:
    """Raise ParamsError or EvergreenError for the first of `planned` that a training would refuse, before any training.

    Raises EvergreenError if all of them are what params.yaml says.
    """
    from tasks.backbones.timm_models import check_known
    from tasks.stages.train_backbone.checks import check_settings as check_stage

    today = parse_params(parse_text(setup.text))
    wanted = [parse_params(parse_text(with_settings(setup.text, changes))) for changes in planned]
    if all(params == today for params in wanted):
        raise EvergreenError("nothing to try: params.yaml has these settings already")
    for params in wanted:
        stage = params.train_backbone
        if stage.start != "pretrained":  # not pinned yet: whether a soup has a common start is seen in the stage
            stage = stage.model_copy(update={"combine": "best"})
        check_stage(stage, params.data.task)
        check_known(params.train_backbone.backbone)


def find(root: Path, key: str) -> Row | None:
    """The row of the experiment with this key, on whatever commit it was made."""
    return next((row for row in reversed(rows(root)) if row.key == key), None)


def comparable(setup: Setup) -> list[Row]:
    """The experiments over the inputs of HEAD that were judged against the champion of `setup`, oldest first."""
    version = setup.champion.version if setup.champion else None
    found = [row for row in rows(setup.root) if row.kind == "experiment" and row.inputs == setup.key]
    return [row for row in found if row.champion == version]


def apply(root: Path, row: Row) -> list[str]:
    """Write the changes of `row` into params.yaml; returns a line for each. Raises EvergreenError."""
    file = root / "params.yaml"
    text = file.read_text(encoding="utf-8")
    changed = with_settings(text, row.changes)
    if changed != text:
        with atomic_path(file, tracked=True) as temporary:
            temporary.write_text(changed, encoding="utf-8")
    return [f"{setting}: {value}" for setting, value in row.changes.items()]
