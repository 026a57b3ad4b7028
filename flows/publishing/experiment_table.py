"""DVC's experiment table: a row for each judged run and each experiment.

    refs/exps/<2 digits>/<38 digits>/<name>    as DVC keeps its own; the 40 digits are the commit that it ran on

The commit under the ref holds what a release's commit holds (flows.publishing.registry.RECORDED) and FILE, the few
figures that people compare. Its message ends with one line of JSON: what else `Row` says. So `dvc exp show`, `dvc plots
diff` and `dvc metrics diff` read runs that were promoted, held and rejected, and experiments. Nothing of the release
store is touched. A row keeps its figures for good, and its model until `evergreen gc`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flows.publishing.registry import recorded_tree
from flows.repo.git import git, identity_options
from flows.repo.progress import for_record
from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json
from tasks.common.params import Params
from tasks.gate.verdict import GateVerdict

NAMESPACE = "refs/exps"
FILE = "metrics/experiment.json"
GROUP = "experiment"  # of the figures in FILE, so that `dvc exp show --keep 'experiment.*'` shows them alone
TRAILER = "Evergreen-Experiment: "
NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{0,99}")


class Row(Frozen):
    """One row of the table, as Evergreen wrote it. A row that DVC wrote is not one of them."""

    name: str
    rev: str = ""  # the commit
    baseline: str = ""  # the commit that it ran on
    kind: str  # run | experiment
    changes: dict[str, Any] = {}  # setting -> value, of an experiment
    key: str | None = None  # of an experiment: see flows.experiments.plan
    inputs: str | None = None  # of an experiment: the input key of the commit that it ran on
    champion: str | None  # version that it was judged against
    sentence: str  # of the verdict
    by: str = ""
    at: int = 0  # seconds since 1970
    figures: dict[str, Any] = {}  # FILE


def figures_of(worktree: Path, verdict: GateVerdict, metric: str, seconds: float | None) -> dict[str, Any]:
    """The figures that people compare, of the finished stages in `worktree`; None for what it does not have.

    metric: gate.metric. gain: of the test split against the champion.
    """
    found = read_json(worktree / "metrics/evaluate.json")
    head = worktree / "metrics/train_head.json"
    gain = next((check.value for check in verdict.checks if check.name == f"test.{metric}"), None)
    return {
        "outcome": verdict.outcome,
        "champion": verdict.champion,
        "calibration_score": read_json(head).get("score") if head.is_file() else None,
        "test": _at(found, "test", metric),
        "gain": gain if verdict.champion else None,
        "hard": _at(found, "hard", metric),
        "few": _at(found, "shots", "few", "recall"),
        "ece": _at(found, "test", "debiased_ece"),
        "latency_ms": _at(found, "latency_ms", "p50"),
        "seconds": None if seconds is None else round(seconds, 1),
    }


def _at(values: Any, *keys: str) -> Any:
    for key in keys:
        values = values.get(key) if isinstance(values, Mapping) else None
    return values


def add_row(worktree: Path, row: Row) -> Row:
    """Commit what the stages left in `worktree` as `row`. A row of its name is replaced, on whatever baseline it is.

    DVC refuses a name that two rows have.
    """
    baseline = git(worktree, "rev-parse", "HEAD")
    about = row.model_dump(mode="json", exclude={"rev", "baseline", "at", "figures", "name"})
    tree = recorded_tree(worktree, {FILE: json.dumps({GROUP: row.figures}, indent=1) + "\n"})
    title = f"{row.kind.capitalize()} {row.name}"
    text = f"{title}\n\n{row.sentence}\n\n{TRAILER}{json.dumps(about, sort_keys=True)}\n"
    commit = git(worktree, *identity_options(worktree), "commit-tree", tree, f"-p{baseline}", "-m", text)
    ref = ref_of(baseline, row.name)
    git(worktree, "update-ref", "-m", f"evergreen: {row.kind}", ref, commit)
    for old in git(worktree, "for-each-ref", "--format=%(refname)", f"{NAMESPACE}/*/*/{row.name}").splitlines():
        if old != ref:
            git(worktree, "update-ref", "-d", old)
    return row.model_copy(update={"rev": commit, "baseline": baseline})


def add_run(worktree: Path, run_id: str, by: str, sentence: str, verdict: GateVerdict, params: Params) -> Row:
    """Add the row of a judged run, whatever its verdict. The run's folder says how long its steps took."""
    steps = for_record(worktree.parent)["steps"]
    figures = figures_of(worktree, verdict, params.gate.metric, sum(step["seconds"] or 0.0 for step in steps))
    row = Row(name=run_id, kind="run", champion=verdict.champion, sentence=sentence, by=by, figures=figures)
    return add_row(worktree, row)


def ref_of(baseline: str, name: str) -> str:
    """Where DVC looks for the experiment `name` on the commit `baseline`."""
    return f"{NAMESPACE}/{baseline[:2]}/{baseline[2:]}/{name}"


def rows(root: Path, baseline: str | None = None) -> list[Row]:
    """The rows that Evergreen wrote, oldest first; baseline: only those on this commit."""
    pattern = ref_of(baseline, "*") if baseline else NAMESPACE
    fields = "%(refname)%00%(objectname)%00%(committerdate:unix)%00%(contents)%00%01"
    listing = git(root, "for-each-ref", "--sort=committerdate", f"--format={fields}", pattern)
    return list(_read(root, listing))


def _read(root: Path, listing: str) -> Iterator[Row]:
    for entry in listing.split("\0\1"):
        if not entry.strip():
            continue
        ref, rev, at, text = entry.lstrip("\n").split("\0")
        parts = ref.removeprefix(f"{NAMESPACE}/").split("/")
        line = text.strip().rpartition("\n")[2]
        if len(parts) != 3 or not line.startswith(TRAILER):
            continue  # DVC's own
        with suppress(ValueError, KeyError, EvergreenError):
            about = json.loads(line.removeprefix(TRAILER))
            about |= {"name": parts[2], "rev": rev, "baseline": parts[0] + parts[1], "at": int(at)}
            yield Row.model_validate(about | {"figures": json.loads(git(root, "show", f"{rev}:{FILE}"))[GROUP]})
