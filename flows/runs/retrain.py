"""The retrain flow: data in, a judged and perhaps published model out.

DVC runs the stages up to `bundle`. Gate and publish depend on the champion, so the flow runs them itself. A run ends as
promoted, held, rejected, refused (bad data) or unchanged (the result is the champion again).
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from rich.console import Console
from rich.markup import escape

from flows.labels.floor_places import places_of_run, unknown_costs, unknown_floors
from flows.publishing import run_records
from flows.publishing.decisions import refusal_of, refusal_sentence
from flows.publishing.diagnose import first_model_remedies
from flows.publishing.experiment_table import add_run
from flows.publishing.history import withdrawal_of, withdrawn_sentence
from flows.publishing.judge_run import judge_run
from flows.publishing.outcomes import CANCELLED, EXIT_CODES, Ending
from flows.publishing.publish import Publication, publish
from flows.publishing.remedies import table_remedies
from flows.repo.label_issues import keep_queue
from flows.repo.progress import Progress, Step, cancel_sentence, record_unfinished
from flows.repo.tombstones import settings_of
from flows.rollout.begin import POLICY, begin_waiting
from flows.runs import lease, pace, steps
from flows.runs.start import pin_start
from flows.runs.summary import summary
from flows.runs.teachers import fetch_teachers
from flows.runs.weights import check_training_weights
from flows.scale.engine import check_usable
from flows.server.api import Api
from flows.server.process import mark_cancelled
from monitoring.console_link import console_link, console_started, quoted
from tasks.common.errors import BatchRefused, EvergreenError, ParamsError, TableRefused
from tasks.common.files import read_json, write_json
from tasks.common.machine_limits import machine_error
from tasks.common.params import Params, load_params
from tasks.common.paths import state_dir
from tasks.dataset.shards import known_batches, read_tombstones, undo_text
from tasks.gate.verdict import GateVerdict
from tasks.releases.bundle import digest
from tasks.releases.pause import pause_of
from tasks.releases.pointer import Pointer
from tasks.releases.store import PointerMoved, Releases, open_store
from tasks.stages.runner import STAGES

T = TypeVar("T")
RACES = 10  # times a run is judged again because another run published first, before it is held

# the real stdout: what a step prints is captured while the step runs
console = Console(file=sys.stdout, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Run:
    """One run: its worktree, settings and release store, its id, why it was started, by whom, how far it is."""

    root: Path
    params: Params
    releases: Releases
    id: str
    reason: str
    by: str
    progress: Progress


@flow(name="retrain", flow_run_name="{run_id}", persist_result=False, validate_parameters=False)
def retrain(run_id: str, reason: str, by: str):
    """Run every stage, judge the result against the champion, and publish it if the gate says so."""
    root = Path.cwd()
    params = load_params(root / "params.yaml")
    progress = Progress(root.parent, [Step(name) for name in ("data", *STAGES, "gate")], flow_run=flow_run.id)
    progress.save()
    run = Run(root, params, open_store(params.store, root), run_id, reason, by, progress)
    commit = None  # that keeps a held run
    refused_page = None
    try:
        console.print(f"  [dim]{pace.expected(root)}[/]")
        check_usable(params.scale)
        check_training_weights(root, params)
        fetch_teachers(root, params, run.releases)
        _timed(run, "data", lambda: steps.data_step(root), lambda _: ("here", ""))
        for name in STAGES:
            _bring_up_to_date(run, name)
        ending = _gate_and_publish(run)
        if ending.outcome == "held":
            ending, commit = _keep_held(run, ending)
    except BatchRefused as refused:
        ending = Ending(outcome="refused", sentence=f"{refused}. {_tombstone(run, refused)}")
        refused_page = refused.batch
    except TableRefused as refused:
        known = known_batches(root / "data")
        stones = {batch: about for batch, about in read_tombstones(root).items() if batch in known}
        said = ". ".join(filter(None, [str(refused), undo_text(stones)]))
        ending = Ending(outcome="refused", sentence=said, remedies=table_remedies(refused.checks))
        refused_page = "table"
    run_records.record(run.releases, root, run_id, ending, commit)
    write_json(root.parent / "ended.json", ending.model_dump())
    _report(run, ending, refused_page)
    _add_row(run, ending)
    _begin_rollout(run, ending)
    get_run_logger().info("%s: %s", ending.outcome, ending.sentence)
    good = ending.outcome in ("promoted", "held", "unchanged")
    state = Completed if good else Failed
    return state(name=ending.outcome.capitalize(), message=ending.sentence)


def _tombstone(run: Run, refused: BatchRefused) -> str:
    """Tombstone a batch that is refused at its first run; returns what to do.

    A batch that an earlier run has accepted did not change. Then settings, code or other batches did, and a person must
    say what is meant.
    """
    if run_records.was_accepted(run.releases, run.root, refused.batch):
        return (
            "An earlier run accepted this batch, so it is not the batch that changed: look at what did (data and "
            "validate in params.yaml, other batches). Nothing was tombstoned. To train without it: "
            f"`evergreen tombstone {refused.batch} --why ...`."
        )
    why = "; ".join(refused.reasons)
    run.releases.tombstone(refused.batch, why=why, by=f"run {run.id}", settings=settings_of(run.params))
    return (
        "The batch is tombstoned: kept, but not trained on while data and validate in params.yaml stay as they are. "
        f"`evergreen tombstone {refused.batch} --undo --why ...` allows it again."
    )


def _bring_up_to_date(run: Run, stage: str) -> None:
    if stage == "train_backbone" and (found := pin_start(run.root, run.params, run.releases)):
        console.print(f"  {'':<35}[dim]training starts {escape(found)}[/]")
    began = time.monotonic()
    outcome = _timed(
        run, stage, lambda: steps.stage_step(stage, run.root), lambda outcome: (outcome, summary(stage, run.root))
    )
    if outcome == "ran":
        pace.remember(run.root, stage, time.monotonic() - began)
    if stage == "validate":
        _check_floors(run)
    if stage == "clean":
        keep_queue(run.root, run.id)
        command, link = "`evergreen queue --issues`", escape(console_link(run.root, "/label/issues"))
        where = f"{link} (or {command})" if console_started(run.root) else command
        console.print(f"  {'':<35}[dim]look at them: {where}[/]")


def _check_floors(run: Run) -> None:
    """Raise ParamsError for floors and costs of what is not there: before training, not after it."""
    floors, costs = run.params.gate.floors, run.params.calibrate.cost_false_negative
    if not floors and not costs:
        return
    known = places_of_run(run.root)
    if lines := unknown_floors(floors, known) + unknown_costs(costs, known):
        said = "\n  ".join(lines)
        raise ParamsError(f"params.yaml names what is not in the data, so nothing was trained:\n  {said}")


def _report(run: Run, ending: Ending, refused: str | None) -> None:
    """Write the run's page and show where it is; for refused data, show the validation page instead.

    The run has ended: an error here is shown and logged, and changes nothing.
    """

    def report() -> Path:
        if refused:
            page = state_dir(run.root) / "validation" / f"{refused}.html"
            link = console_link(run.root, f"/data/{quoted(refused)}" if refused != "table" else "/data")
            steps.show_page("validation-page", link, "why the data were refused", ending.sentence)
            return page
        from flows.release_report import page as release_page

        written = release_page.write(run.root, run.params, run.releases, run.id, ending, run.reason)
        page = written.kept or written.path
        link = console_link(run.root, f"/releases/{quoted(run.id)}")
        steps.show_page("release-report", link, "the release report", ending.sentence, written.markdown)
        return page

    if not (refused or ending.verdict):
        return  # nothing was judged: the result is the champion again, or a withdrawn model
    try:
        _timed(run, "report", lambda: steps.simple_step("report", report), lambda page: ("written", str(page)))
    except Exception as error:
        get_run_logger().exception("the report could not be written")
        console.print(f"  [yellow]no report:[/] {escape(str(error))}")


def _begin_rollout(run: Run, ending: Ending) -> None:
    """Let a model that passed the gate answer its first traffic. The run has ended: the monitor tries again."""
    if not ending.rollout:
        return
    try:
        begun = begin_waiting(run.root, run.releases, by=POLICY)
        said = begun.sentence() if begun else "it begins after the rollout before it, or the pause"
        console.print(f"  [dim]rollout: {escape(said)} (`evergreen rollout`)[/]")
    except Exception as error:
        get_run_logger().exception("the rollout could not begin")
        console.print(f"  [yellow]no rollout:[/] {escape(str(error))}")


def _add_row(run: Run, ending: Ending) -> None:
    """Add the judged run to DVC's experiment table, whatever its ending. As in `_report`, an error changes nothing."""
    try:
        if ending.verdict:
            add_run(run.root, run.id, run.by, ending.sentence, ending.verdict, run.params)
    except Exception as error:
        get_run_logger().exception("the run is not in the experiment table")
        console.print(f"  [yellow]not in `dvc exp show`:[/] {escape(str(error))}")


def _timed(run: Run, name: str, step: Callable[[], T], describe: Callable[[T], tuple[str, str]]) -> T:
    """Run one step, print and record its line (name, outcome, seconds, what it found) and return its result.

    describe: result -> (outcome, what it found). Raises KeyboardInterrupt where a person has cancelled the run: Python
    drops the signal of that where it arrives in a destructor.
    """
    if cancel_sentence(run.root.parent):
        raise KeyboardInterrupt
    start = time.monotonic()
    # what stages print is for `dvc repro` and the run's log; here, the line
    with console.status(f"  {name}"), run.progress.running(name) as about, run.progress.printing():
        result = step()
        about.outcome, about.found = outcome, found = describe(result)
    console.print(f"  [bold]{name:<15}[/]{outcome:<10}{time.monotonic() - start:7.1f} s   [dim]{escape(found)}[/]")
    return result


def _gate_and_publish(run: Run) -> Ending:
    """Judge the challenger against the live champion and publish it; judge again if another run published first."""
    challenger, key = digest(run.root / "artifacts/bundle"), run_records.recorded_input_key(run.root)
    for _ in range(RACES):
        champion = run.releases.live()
        if champion is not None and champion.bundle == challenger:
            return Ending(outcome="unchanged", sentence=f"the result is {champion.version} again: nothing to publish")
        if withdrawal := withdrawal_of(run.releases, challenger, key):
            return Ending(outcome="held", sentence=withdrawn_sentence(withdrawal))
        verdict = _gate(run, champion)
        if ending := not_published(run, verdict):
            return ending
        try:
            live = _publish(run, champion, f"{run.reason.rstrip('.')}; {verdict.sentence}")
        except PointerMoved:
            console.print("  another run published first: judging again, against the new champion")
            continue
        return Ending(outcome="promoted", sentence=verdict.sentence, version=live.version, verdict=verdict)
    return Ending(outcome="held", sentence=f"the champion changed {RACES} times while this run tried to publish")


def not_published(run: Run, verdict: GateVerdict) -> Ending | None:
    """How a run ends that the gate does not promote, that passes it during a pause, or that rolls out; None: it is
    published."""
    if verdict.outcome != "promote":
        outcome = {"hold": "held", "reject": "rejected"}[verdict.outcome]
        if outcome == "held" and (refused := refusal_of(run.releases, verdict.challenger)):
            said = f"{verdict.sentence.rstrip('.')}; {refusal_sentence(*refused)}"
            return Ending(outcome="rejected", sentence=said, verdict=verdict)
        todo = first_model_remedies(run.root, run.params, run.id, verdict)
        return Ending(outcome=outcome, sentence=verdict.sentence, verdict=verdict, remedies=todo)
    if pause := pause_of(run.releases):
        sentence = f"{verdict.sentence} It is held because Evergreen is {pause.sentence()}."
        return Ending(outcome="held", sentence=sentence, verdict=verdict)
    if run.params.release.strategy != "direct" and verdict.champion is not None:
        first = "unseen" if run.params.release.strategy == "shadow" else "a share of the traffic"
        sentence = f"{verdict.sentence} It answers {first} first; `evergreen rollout` shows how it does."
        return Ending(outcome="held", sentence=sentence, verdict=verdict, rollout=True)
    return None


def _keep_held(run: Run, ending: Ending) -> tuple[Ending, str | None]:
    """Commit a held run so that a person can approve it; returns (the ending with what to do next, the commit)."""

    def keep() -> str:
        return run_records.preserve_held(run.root, run.releases, run.params.bundle.name, run.id, ending.sentence)

    commit = None
    try:
        commit = _timed(run, "keep", lambda: steps.simple_step("keep", keep), lambda _: ("kept", ""))
        advice = f"`evergreen approve {run.id}` publishes it{' at once' if ending.rollout else ''}."
    except EvergreenError as error:
        advice = f"Only its workspace keeps it: {error}"
    return ending.model_copy(update={"sentence": f"{ending.sentence} {advice}"}), commit


def _gate(run: Run, champion: Pointer | None) -> GateVerdict:
    def gate() -> GateVerdict:
        verdict = steps.repaired(
            run.root, lambda: judge_run(run.root, run.params, run.releases, champion, run=run.id, by=run.by)
        )
        write_json(run.root.parent / "verdict.json", verdict.model_dump())
        steps.show_verdict(verdict)
        return verdict

    return _timed(run, "gate", lambda: steps.simple_step("gate", gate), lambda verdict: (verdict.outcome, ""))


def _publish(run: Run, champion: Pointer | None, why: str) -> Pointer:
    def publish_bundle() -> Pointer:
        publication = Publication(worktree=run.root, name=run.params.bundle.name, run_id=run.id, why=why, by=run.by)
        return publish(publication, run.releases, champion)

    return _timed(run, "publish", lambda: steps.simple_step("publish", publish_bundle), lambda live: (live.version, ""))


def _why(error: object) -> str:
    """What made a run fail, for the terminal."""
    if isinstance(error, BaseException) and (said := machine_error(error)):
        return said

    if any(kind.__name__ == "TransportError" for kind in type(error).__mro__):  # of httpx, which Prefect uses
        return (
            f"the Prefect server does not answer ({type(error).__name__}: {error}). Finished stages are kept: "
            "`evergreen retrain` starts a server and goes on from there"
        )
    return str(error)


def main(run_id: str, reason: str, by: str) -> int:
    """Run the flow in the current folder, the run's worktree; returns the exit code of its ending."""
    root = Path.cwd()

    releases = open_store(load_params(root / "params.yaml").store, root)
    if console_started(root):
        console.print(f"  [dim]{console_link(root, f'/runs/{quoted(run_id)}')}[/]")
    with lease.renewed(releases, run_records.recorded_input_key(root), run_id):
        try:
            error = retrain(run_id, reason, by, return_state=True)
            error = error.result(raise_on_failure=False)  # of a flow that failed: its traceback is in the log
        except Exception as unreachable:  # Prefect's server, killed and not started again for two minutes
            error = unreachable
    file = root.parent / "ended.json"
    if not file.is_file():
        record_unfinished(root, root.parent, "failed", _why(error))
        console.print(f"[red]failed:[/] {escape(_why(error))}")
        return 1
    ending = Ending.model_validate(read_json(file))
    colour = {"promoted": "green", "held": "yellow", "unchanged": "cyan"}.get(ending.outcome, "red")
    word = f"{ending.outcome} (provisional)" if ending.verdict and ending.verdict.provisional else ending.outcome
    console.print(
        f"[bold {colour}]{word}[/]{' ' + ending.version if ending.version else ''}: {escape(ending.sentence)}"
    )
    if ending.remedies:
        console.print("What to do, the likeliest first:")
    for line in ending.lines():
        console.print(escape(line))
    return EXIT_CODES[ending.outcome]


def interrupted(root: Path) -> int:
    """The exit code of a run that Ctrl-C or a person's request ended; records a request as the run's end."""
    if (said := cancel_sentence(root.parent)) is None:
        return 130
    record_unfinished(root, root.parent, "cancelled", said)
    if api := Api.from_environment():
        with suppress(EvergreenError):  # its server may have been stopped too
            mark_cancelled(api, root.parent.name, said)
    return CANCELLED
