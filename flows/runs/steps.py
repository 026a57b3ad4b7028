"""Prefect tasks around plain functions: names, retries, timeouts, and the artifacts people look at."""

import base64
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from prefect import get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from flows.repo.damage import repairing
from flows.repo.pipeline import Outcome, bring_up_to_date, open_repo, restore_data
from flows.scale.fill import fill_entries
from flows.scale.stages import run_stage_scaled
from tasks.common import artifacts
from tasks.common.errors import EvergreenError
from tasks.common.nested import flatten
from tasks.gate.verdict import GateVerdict

T = TypeVar("T")
TIMEOUT = timedelta(hours=12).total_seconds()  # a run that hangs at 2 AM must end as a failure that sends an alert


def _transient(task_, task_run, state) -> bool:
    """Retry errors that may pass (a full disk, a busy server), never one that the user must fix."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OSError) and not isinstance(error, EvergreenError)


def _step(name: str, retries: int = 1):
    """Make a task named `name`. No cache, no persisted result: correctness never depends on Prefect."""
    return task(
        name=name,
        task_run_name=name,
        retries=retries,
        retry_delay_seconds=5,
        retry_condition_fn=_transient,
        timeout_seconds=TIMEOUT,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


_repos: dict[Path, Any] = {}


def _repo(root: Path):
    if root not in _repos:
        _repos[root] = open_repo(root)
    return _repos[root]


def data_step(root: Path) -> None:
    """Check out data/ as recorded in data.dvc."""
    _step("data")(lambda: restore_data(_repo(root)))()


def repaired(root: Path, step: Callable[[], T]) -> T:
    """The result of `step`, with damaged shards replaced where an undamaged copy is left."""
    return repairing(_repo(root), step)


def stage_step(name: str, root: Path) -> Outcome:
    """Bring stage `name` up to date and show its metrics in Prefect's UI; replaces damaged shards it comes across."""

    def current() -> Outcome:
        outcome = repaired(root, lambda: bring_up_to_date(_repo(root), name, run_stage_scaled, fill_entries))
        show_metrics(name, root, outcome)
        return outcome

    return _step(name)(current)()


def show_metrics(name: str, root: Path, outcome: str) -> None:
    """Show metrics/<name>.json as a table, and the stage's plots as a page."""
    figures = {path: leaf for path, leaf in flatten(artifacts.figures(root, name)).items() if leaf != {}}
    key = name.replace("_", "-")
    _show(
        create_table_artifact,
        key=key,
        table=[{"figure": figure, "value": _rounded(value)} for figure, value in list(figures.items())[:200]],
        description=f"stage {name}: {outcome}",
    )
    plots = sorted((root / "artifacts" / name / "plots").glob("*.png"))
    if plots:
        _show(
            create_markdown_artifact,
            key=f"{key}-plots",
            markdown="\n\n".join(f"## {plot.stem.replace('_', ' ')}\n\n{_picture(plot)}" for plot in plots),
            description="reliability, confusion matrix, precision and recall, worst mistakes",
        )


def _show(create: Callable, **about: Any) -> None:
    """Make one of Prefect's artifacts. Where its server does not answer, the run goes on without."""
    try:
        create(**about)
    except Exception as error:
        get_run_logger().warning("Prefect does not show %s: %s", about["key"], error)


def _picture(path: Path) -> str:
    return f"![{path.stem}](data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()})"


def show_verdict(verdict: GateVerdict) -> None:
    """Show the gate's checks as a table under its sentence."""
    _show(
        create_table_artifact,
        key="verdict",
        table=[
            {
                "check": check.name,
                "status": check.status,
                "value": _round(check.value),
                "interval": "" if check.low is None else f"{_round(check.low)} .. {_round(check.high)}",
                "bound": _round(check.bound),
                "detail": check.detail,
            }
            for check in verdict.checks
        ],
        description=verdict.sentence,
    )


def show_page(key: str, link: str, text: str, sentence: str, markdown: str = "") -> None:
    """Show in Prefect a link to the console's page, and `markdown` as a preview."""
    _show(create_link_artifact, key=f"{key}-link", link=link, link_text=text, description=sentence)
    _show(create_markdown_artifact, key=key, markdown=f"{markdown}\n[{text}]({link})\n", description=sentence)


def _round(value: float | None) -> float | str:
    return "" if value is None else float(f"{value:.4g}")


def _rounded(value: Any) -> Any:
    """`value`, a float to four digits."""
    return float(f"{value:.4g}") if isinstance(value, float) else value


def simple_step(name: str, function: Callable[[], T]) -> T:
    """Run `function` as a task without retries and return its result: for steps that decide or publish."""
    return _step(name, retries=0)(function)()
