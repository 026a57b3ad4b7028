"""A released project whose held run waits for its rollout, and traffic that both models answer."""

import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa

from flows.publishing import run_records
from flows.publishing.outcomes import Ending
from flows.repo import run_inputs
from monitoring.log.production_log import Log, open_log
from monitoring.log.schema import late_labels_schema, log_schema
from monitoring.log.shadow import open_shadow_log
from tasks.common.files import read_json, sha256_bytes, write_json
from tasks.common.params import load_params
from tasks.gate.verdict import GateVerdict
from tasks.releases.rollout import Rollout
from tests.support import released_project
from tests.support.released_project import CLASSES, NAME, store
from tests.support.shared import once

RUN = "run-4"
ALWAYS = "strategy: canary\n  steps: [0.2, 0.5]\n  min_requests: 20\n  min_hours: 0.0"
EVERY = 100  # milliseconds between two requests


def copy(folder: Path) -> Path:
    """The project at `folder`/main, of one's own, without the worktrees of its runs."""
    made = once("rolling", lambda place: waiting(released_project.copy(place))) / "main"
    left_out = {made / ".evergreen": {"runs"}, made / ".git": {"worktrees"}}
    shutil.copytree(made, folder / "main", symlinks=True, ignore=lambda place, _: left_out.get(Path(place), set()))
    return folder / "main"


def strategy(main: Path, text: str) -> Path:
    """Write the section release of params.yaml: "strategy: shadow\\n  min_requests: 20"."""
    before = (main / "params.yaml").read_text()
    start = before.index("release:\n")
    end = before.index("\n\n", start)
    (main / "params.yaml").write_text(f"{before[:start]}release:\n  {text}{before[end:]}")
    return main


def waiting(main: Path) -> Path:
    """Let `main`, a copy of the released project, have a run that the gate promotes and that waits for its rollout."""
    strategy(main, ALWAYS)
    tree = released_project.run(main, RUN, 0.6)
    live = store(main).live().version
    sentence = f"promote: better than {live}."
    about = {"outcome": "promote", "sentence": sentence, "checks": [], "challenger": "c", "hard_set": None}
    verdict = GateVerdict(**about, champion=live)
    rev = run_records.preserve_held(tree, store(main), NAME, RUN, sentence)
    ending = Ending(outcome="held", sentence=sentence, verdict=verdict, rollout=True)
    run_records.record(store(main), tree, RUN, ending, rev)
    write_json(tree.parent / "ended.json", ending.model_dump())
    key = read_json(tree.parent / "started.json")["key"]
    run_inputs.record_ending(main, key, {"run_id": RUN} | ending.model_dump())
    return main


def traffic(
    main: Path, rollout: Rollout, count: int, first: int = 0, *, right: float = 1.0, lost: str = "", labels: bool = True
) -> datetime:
    """Log `count` answers as the service would; returns a time after all of them.

    right: how often the challenger is; the champion is right 9 times of 10. lost: a class that the challenger never
    answers. labels: with true labels.
    """
    params = load_params(main / "params.yaml")
    log, rows, unseen, truth = open_log(main, params), [], [], []
    for number in range(first, first + count):
        name, true = f"order {number}", CLASSES[number % len(CLASSES)]
        other = CLASSES[(number + 1) % len(CLASSES)]
        row = {"id": sha256_bytes(name.encode()), "at": rollout.since + timedelta(milliseconds=EVERY * (number + 1))}
        row |= {
            "key": name,
            "source": "cam 1",
            "confidence": 0.9,
            "latency_ms": 5.0,
            "needs_review": False,
            "slices": [],
        }
        said = true if (37 * number) % 100 < 100 * right and true != lost else other
        new = row | {"version": rollout.version, "bundle": rollout.bundle, "prediction": said}
        said = true if number % 10 else other
        live = row | {"version": rollout.champion, "bundle": rollout.champion_bundle, "prediction": said}
        arm = rollout.arm(name)
        rows.append(new if arm == "canary" else live)
        unseen += [new] if arm == "shadow" else []
        about = {"id": row["id"], "at": row["at"], "annotator": "eve", "label": true, "role": "annotator"}
        truth.append(about | {"picked": "feedback"})
    _append(log, rows)
    if unseen:
        _append(open_shadow_log(main, params), unseen)
    if labels:
        log.add_labels(pa.Table.from_pylist(truth, schema=late_labels_schema("multiclass")))
    return rollout.since + timedelta(milliseconds=EVERY * (first + count + 1), seconds=params.capture.flush_seconds)


def _append(log: Log, rows: list[dict]) -> None:
    log.append(pa.Table.from_pylist(rows, schema=log_schema("multiclass")))
