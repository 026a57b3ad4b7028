"""The demo's second half: production changes, people label, a retrained model takes over.

Nothing is staged: the live model answers the traffic through ONNX Runtime, the monitor decides, Prefect's automation
starts the run. Only the person who labels is played: their labels come from truth.parquet, which nothing else reads.
"""

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from flows.demo import clients
from flows.repo import workspace
from flows.services.up import live_accuracy_line
from monitoring.log.production_log import open_log
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path, read_json
from tasks.common.params import load_params
from tasks.common.paths import state_dir
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases

RUN_SECONDS = 1800  # limit for the event to start a run and for that run to end
console = Console(highlight=False)


@dataclass(frozen=True)
class Story:
    """One data set of the demo: its files, and the words for what happens to them."""

    files: Path  # batch-2, sabotaged, production-1 to -4 and truth, each .parquet
    ingests: tuple[tuple[str, ...], ...]  # arguments of each `evergreen ingest` before the first model
    certain_gain: bool  # True: the second batch must give a better model; False: the gate may hold or reject it
    known: str  # "the cameras the model knows"
    change: str  # "a camera is replaced"
    changed: str  # "the new camera"


# what the monitor may decide while nothing has changed: a small window passes a bound now and then, and "watch", which
# waits for the next ones, asks for nothing
QUIET = ("none", "watch")


@dataclass
class Demo:
    """What the second half needs; `evergreen(*arguments)` runs one command and returns its exit code."""

    project: Path
    releases: Releases
    evergreen: Callable[..., int]
    story: Story

    def traffic(self, number: int) -> datetime:
        """Let the images of production-`number` arrive now, over HTTP; returns when they began to."""
        live, file = self.releases.live(), self.story.files / f"production-{number}.parquet"
        began = datetime.now(UTC)
        answers = clients.send(self.project, live.version, file)
        review, unlike = (sum(one[name] for one in answers) for name in ("needs_review", "is_ood"))
        console.print(
            f"  {len(answers)} images sent to {clients.address(self.project, live.version)}/predict: {live.version} "
            f"answered them in {(datetime.now(UTC) - began).total_seconds():.1f} s",
            f"  worth a review: {review} ({unlike} of them unlike the training images)",
            sep="\n",
            soft_wrap=True,
        )
        return began

    def monitor(self, *expected: str) -> dict:
        """Run the monitor; returns its record. Raises EvergreenError for an outcome that was not expected."""
        held_back = load_params(self.project / "params.yaml").capture.flush_seconds + 1
        time.sleep(held_back + 1)  # capture may hold answers back that long, so the window ends that much earlier
        self._must("monitor")
        seen = read_json(state_dir(self.project) / "monitor.json")
        if seen["outcome"] not in expected:
            wanted = " or ".join(expected)
            raise EvergreenError(f"the demo expected the monitor to decide {wanted}, found: {seen['sentence']}")
        return seen

    def label_the_queue(self) -> int:
        """Export the queue, fill in the true labels and import them; returns how many."""
        file = state_dir(self.project) / "demo" / "queue.csv"
        self._must("queue", "--csv", str(file))
        truth = pq.read_table(self.story.files / "truth.parquet").to_pydict()
        known = dict(zip(truth["id"], truth["label"], strict=True))
        with open(file, encoding="utf-8", newline="") as source:
            rows = list(csv.DictReader(source))
        with atomic_path(file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as target:
            writer = csv.DictWriter(target, list(rows[0]) if rows else ["id", "label"])
            writer.writeheader()
            writer.writerows({**row, "label": known[row["id"]]} for row in rows)
        console.print("  [dim](here a person looks at the images and fills in the labels)[/]")
        self._must("label", str(file), "--annotator", "a person")
        return len(rows)

    def correct_a_label(self) -> tuple[str, str] | None:
        """As a reviewer, correct one wrong label of the training data; returns (id, right label), None: all right."""
        truth = pq.read_table(self.story.files / "truth.parquet").to_pydict()
        known = dict(zip(truth["id"], truth["label"], strict=True))
        trained = (row for row in self._training_labels() if row["action"] != "drop" and row["id"] in known)
        wrong = next((row for row in trained if row["label"] != known[row["id"]]), None)
        if wrong is None:
            return None
        self._must("correct", wrong["id"], known[wrong["id"]], "--why", "plain to see on the image")
        return wrong["id"], known[wrong["id"]]

    def explain(self, image: str, label: str) -> None:
        """Show why `image` has its label. Raises EvergreenError if the newest model was not trained on `label`."""
        self._must("why", image)
        found = [row["label"] for row in self._training_labels() if row["id"] == image]
        if found != [label]:
            raise EvergreenError(f"the demo expected {image[:12]} to be trained on as {label}, found {found}")

    def _training_labels(self) -> list[dict]:
        """Training labels of the newest run, as `clean` left them, in the order of ids."""
        runs = sorted((state_dir(self.project) / "runs").glob("*/tree/artifacts/clean/labels.parquet"))
        table = pq.read_table(runs[-1], columns=["id", "split", "label", "action"])
        return table.filter(pc.equal(table["split"], "train")).sort_by("id").to_pylist()

    def mark(self) -> tuple[str, int]:
        """(now, written as run ids begin; length of the runner's log): what comes later lies behind both."""
        log = state_dir(self.project) / "runner.log"
        return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}", log.stat().st_size if log.is_file() else 0

    def wait_for_release(self, before: Pointer, mark: tuple[str, int]) -> tuple[Pointer, datetime]:
        """Show the run that the event starts until it ends; returns (the new pointer, when the run started).

        mark: taken before the event. The monitor sends the event before it draws its report, so the run may have
        begun by the end of the command.
        """
        state, (since, offset) = state_dir(self.project), mark
        log, deadline = state / "runner.log", time.monotonic() + RUN_SECONDS
        folder = None
        while (
            folder is None or not (folder / "ended.json").is_file() or folder.name in workspace.alive_runs(self.project)
        ):
            if time.monotonic() > deadline:
                raise EvergreenError(f"no run ended in {RUN_SECONDS} s after the event; see {log}")
            if new := sorted(path for path in (state / "runs").iterdir() if path.name > since):
                folder = new[0]
            offset = _show(log, offset)
            time.sleep(0.5)
        _show(log, offset)
        ended = read_json(folder / "ended.json")
        if ended["outcome"] == "held":  # the queue's picks are trained on; the audit sample that judges is small
            console.print(
                "  [dim](here a person reads the release report: knowing the new images is worth what it costs)[/]"
            )
            self._must("approve", folder.name, "--why", f"{self.story.change}, and only this model knows it")
        live = self.releases.live()
        if live is None or live.version == before.version:
            raise EvergreenError(f"the demo expected a better model: {ended['sentence']}")
        return live, datetime.strptime(folder.name.split("-")[0], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)

    def accuracy(self, since: datetime) -> float:
        """Share of right answers logged since then, by the true labels that only the demo knows."""
        log = open_log(self.project, load_params(self.project / "params.yaml"))
        answers = log.window(since, datetime.now(UTC) + timedelta(minutes=1), columns=["id", "prediction"])[0]
        truth = pq.read_table(self.story.files / "truth.parquet")
        labels = truth["label"].take(pc.index_in(answers["id"], truth["id"].combine_chunks()))
        return pc.mean(pc.equal(answers["prediction"], labels).cast(pa.float64())).as_py()

    def live_accuracy(self) -> str | None:
        """How often the live model is right by the labels that people gave, as `evergreen status` says it."""
        said = live_accuracy_line(self.project)
        if said:
            console.print(f"  live accuracy by the labels that came late: [bold]{said}[/]", soft_wrap=True)
        return said

    def _must(self, *arguments: str) -> None:
        if code := self.evergreen(self.project, *arguments):
            raise EvergreenError(f"evergreen {arguments[0]} ended with {code}")


def _show(log: Path, offset: int) -> int:
    """Print the stage lines that the runner's log has gained; returns the new offset."""
    if not log.is_file():
        return offset
    with open(log, "rb") as file:
        file.seek(offset)
        text = file.read()
    whole = text[: text.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        if line.startswith(("  ", "run ", "promoted", "held", "rejected", "train_backbone: epoch")):
            console.print(line, markup=False, soft_wrap=True)
    return offset + len(whole)


def run(demo: Demo, rule: Callable[[str], None]) -> dict:
    """Play parts 4 to 7; returns first_shift_to_retrain_s, accuracy_before, accuracy_after, images_after, reports."""
    live, story = demo.releases.live(), demo.story
    rule(f"4  Production with {story.known}: the monitor stays quiet")
    demo._must("up")
    demo.traffic(1)
    demo.monitor(*QUIET)

    rule(f"5  {story.change.capitalize()}: an alarm within two windows, and a queue of images to label")
    shifted = demo.traffic(2)
    first = demo.monitor("watch", "label")
    demo.traffic(3)
    if first["outcome"] == "watch":
        alarm = demo.monitor("label")
    else:  # labels were asked for already: the monitor does not ask twice
        alarm = first
        demo.monitor("watch", "label")
    demo.label_the_queue()
    console.print("  [dim](and a reviewer corrects one label of the training data)[/]")
    corrected = demo.correct_a_label()

    rule("6  The drift goes on and labels have come: the monitor starts a retraining")
    before, mark = demo.traffic(4), demo.mark()
    demo.monitor("retrain")
    said = demo.live_accuracy()
    accuracy_before = demo.accuracy(before)
    live, started = demo.wait_for_release(live, mark)

    rule(f"7  The new model knows {story.changed}: quiet again")
    after = demo.traffic(4)
    quiet = demo.monitor(*QUIET)
    accuracy_after = demo.accuracy(after)
    console.print(
        f"  accuracy on images of {story.changed} (none of them was labelled or trained on): "
        f"[bold]{accuracy_before:.0%}[/] before, [bold green]{accuracy_after:.0%}[/] with {live.version}",
        soft_wrap=True,
    )
    if corrected:
        demo.explain(*corrected)
    return {
        "first_shift_to_retrain_s": (started - shifted).total_seconds(),
        "live_accuracy": said,
        "accuracy_before": accuracy_before,
        "accuracy_after": accuracy_after,
        "images_after": pq.read_metadata(story.files / "production-4.parquet").num_rows,
        "reports": [seen["report"] for seen in (first, alarm, quiet)],
    }
