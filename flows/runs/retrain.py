"""The retrain flow: data in, a judged and perhaps published model out.

Stages up to `bundle` are DVC's; gate and publish depend on the champion and are the flow's own. A run ends as
promoted, held, rejected, refused (bad data) or unchanged (the champion itself came out again).
"""

import io
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.states import Completed, Failed
from rich.console import Console
from rich.markup import escape

from flows.publishing import run_records
from flows.publishing.history import withdrawal_of, withdrawn_sentence
from flows.publishing.judge_run import judge_run
from flows.publishing.outcomes import EXIT_CODES, Ending
from flows.publishing.publish import Publication, publish
from flows.runs import lease, steps
from flows.runs.summary import summary
from flows.server.process import ui_url
from tasks.common.errors import BatchRefused, EvergreenError, TableRefused
from tasks.common.files import read_json, write_json
from tasks.common.params import Params, load_params
from tasks.common.paths import state_dir
from tasks.gate.verdict import GateVerdict
from tasks.releases.bundle import digest
from tasks.releases.store import Pointer, PointerMoved, Releases, open_store
from tasks.stages.runner import STAGES

RACES = 10  # how often a run that lost the pointer's race gates again before it gives up

# the real stdout: a step's own prints are caught while it runs
console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


@flow(name="retrain", flow_run_name="{run_id}", persist_result=False, validate_parameters=False)
def retrain(run_id: str, reason: str, by: str):
    """Run every stage, gate the result against the champion and publish it if it may."""
    root = Path.cwd()
    params = load_params(root / "params.yaml")
    releases = open_store(params.store, root)
    rev = None  # the commit that keeps a held run
    refused_page = None
    try:
        _timed("data", lambda: steps.data_step(root) or "here")
        for name in STAGES:
            _timed(name, partial(steps.stage_step, name, root), partial(summary, name, root))
        ending = _gate_and_publish(root, params, releases, run_id, reason, by)
        if ending.outcome == "held":
            ending, rev = _keep(root, params, releases, run_id, ending)
    except BatchRefused as refused:
        releases.tombstone(refused.batch, why="; ".join(refused.reasons), by=f"run {run_id}")
        ending = Ending(outcome="refused", sentence=f"{refused} It is tombstoned: kept, never trained on.")
        refused_page = refused.batch
    except TableRefused as refused:
        ending = Ending(outcome="refused", sentence=str(refused))
        refused_page = "table"
    run_records.record(releases, root, run_id, ending, rev)
    write_json(root.parent / "ended.json", ending.model_dump())
    _report(root, params, releases, run_id, reason, ending, refused_page)
    get_run_logger().info("%s: %s", ending.outcome, ending.sentence)
    good = ending.outcome in ("promoted", "held", "unchanged")
    state = Completed if good else Failed
    return state(name=ending.outcome.capitalize(), message=ending.sentence)


def _report(
    root: Path, params: Params, releases: Releases, run_id: str, reason: str, ending: Ending, refused: str | None
) -> None:
    """Write the run's page and show where it is; for refused data, where its validation page is. The run has ended:
    whatever goes wrong here is said and logged, and changes nothing."""
    where: list[Path] = []

    def report() -> None:
        if refused:
            page = state_dir(root) / "validation" / f"{refused}.html"
            steps.show_page("validation-page", page, "why the data are refused", ending.sentence)
            where.append(page)
        else:
            from flows.release_report import page as release_page

            written = release_page.write(root, params, releases, run_id, ending, reason)
            where.append(written.kept or written.path)
            steps.show_page("release-report", where[0], "the release report", ending.sentence, written.markdown)

    if not (refused or ending.verdict):
        return  # nothing was judged: the champion came out again, or a withdrawn model did
    try:
        _timed("report", lambda: steps.simple_step("report", report) or "written", lambda: str(where[0]))
    except Exception as error:
        get_run_logger().exception("the report could not be written")
        console.print(f"  [yellow]no report:[/] {escape(str(error))}")


def _timed(name: str, step: Callable[[], str], about: Callable[[], str] = str) -> None:
    """Run one step and print its line: name, outcome, seconds, what it found."""
    start = time.monotonic()
    with console.status(f"  {name}"), redirect_stdout(io.StringIO()):  # stages print for `dvc repro`; the line says it
        outcome = step()
        found = about()
    console.print(f"  [bold]{name:<15}[/]{outcome:<10}{time.monotonic() - start:7.1f} s   [dim]{escape(found)}[/]")


def _gate_and_publish(root: Path, params: Params, releases: Releases, run_id: str, reason: str, by: str) -> Ending:
    """Judge against the live champion; the loser of a race judges again against the new one."""
    challenger, key = digest(root / "artifacts/bundle"), run_records.recorded_input_key(root)
    for _ in range(RACES):
        champion = releases.live()
        if champion is not None and champion.bundle == challenger:
            return Ending(outcome="unchanged", sentence=f"the result is {champion.version} again: nothing to publish")
        if withdrawal := withdrawal_of(releases, challenger, key):
            return Ending(outcome="held", sentence=withdrawn_sentence(withdrawal))
        verdict = _gate(root, params, releases, champion)
        if verdict.outcome != "promote":
            outcome = {"hold": "held", "reject": "rejected"}[verdict.outcome]
            return Ending(outcome=outcome, sentence=verdict.sentence, verdict=verdict)
        try:
            live = _publish(root, params, releases, champion, run_id, f"{reason.rstrip('.')}; {verdict.sentence}", by)
        except PointerMoved:
            console.print("  another run published first: judging again against the new champion")
            continue
        return Ending(outcome="promoted", sentence=verdict.sentence, version=live.version, verdict=verdict)
    return Ending(outcome="held", sentence=f"the champion changed {RACES} times while this run tried to publish")


def _keep(root: Path, params: Params, releases: Releases, run_id: str, ending: Ending) -> tuple[Ending, str | None]:
    """Keep a held run for whoever approves it; the ending says so, or why it could not be kept."""
    kept: list[str] = []

    def keep() -> None:
        kept.append(run_records.preserve_held(root, releases, params.bundle.name, run_id, ending.sentence))

    try:
        _timed("keep", lambda: steps.simple_step("keep", keep) or "kept")
        said = f"`evergreen approve {run_id}` publishes it."
    except EvergreenError as error:
        said = f"It is kept in its workspace only: {error}"
    return ending.model_copy(update={"sentence": f"{ending.sentence} {said}"}), kept[0] if kept else None


def _gate(root: Path, params: Params, releases: Releases, champion: Pointer | None) -> GateVerdict:
    verdicts: list[GateVerdict] = []

    def gate() -> None:
        verdict = judge_run(root, params, releases, champion)
        write_json(root.parent / "verdict.json", verdict.model_dump())
        steps.show_verdict(verdict)
        verdicts.append(verdict)

    _timed("gate", lambda: steps.simple_step("gate", gate) or verdicts[-1].outcome)
    return verdicts[-1]


def _publish(root: Path, params: Params, releases: Releases, champion, run_id: str, why: str, by: str) -> Pointer:
    published: list[Pointer] = []

    def publish_bundle() -> None:
        published.append(
            publish(
                Publication(worktree=root, name=params.bundle.name, run_id=run_id, why=why, by=by), releases, champion
            )
        )

    _timed("publish", lambda: steps.simple_step("publish", publish_bundle) or published[-1].version)
    return published[-1]


def main(run_id: str, reason: str, by: str) -> int:
    """Run the flow in the current folder (the run's worktree); the exit code tells the ending."""
    root = Path.cwd()

    def announce(flow_, run, state) -> None:
        from prefect.settings import PREFECT_API_URL

        console.print(f"  [dim]{ui_url(PREFECT_API_URL.value(), str(run.id))}[/]")

    releases = open_store(load_params(root / "params.yaml").store, root)
    with lease.kept(releases, run_records.recorded_input_key(root), run_id):
        state = retrain.with_options(on_running=[announce])(run_id, reason, by, return_state=True)
    file = root.parent / "ended.json"
    if not file.is_file():  # an error: the flow is Failed or Crashed with its traceback in the log
        error = state.result(raise_on_failure=False)
        console.print(f"[red]failed:[/] {escape(str(error))}")
        return 1
    ending = Ending.model_validate(read_json(file))
    colour = {"promoted": "green", "held": "yellow", "unchanged": "cyan"}.get(ending.outcome, "red")
    console.print(
        f"[bold {colour}]{ending.outcome}[/]{' ' + ending.version if ending.version else ''}: {escape(ending.sentence)}"
    )
    return EXIT_CODES[ending.outcome]
