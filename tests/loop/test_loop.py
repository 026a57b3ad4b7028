"""The whole loop on real images: a real Prefect server, real git and DVC, real kills. Tests share one project and
build on each other, as runs of one pipeline do."""

import csv
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from flows.repo import run_inputs
from flows.server.process import own_api
from tasks.common.files import read_json
from tasks.common.params import load_params
from tasks.releases.bundle import digest
from tasks.releases.store import open_store
from tests.benchmarks.test_benchmarks_flow import quick_pass
from tests.support import checkout_project
from tests.support.checkout import ROOT, git

pytestmark = pytest.mark.loop


def write_subset(source: str, target: Path, rows: int) -> Path:
    """The first `rows` rows of every (split, label) of a default-set file, as a manifest."""
    table = pq.read_table(ROOT / "datasets" / "fashion" / source)
    keys = list(zip(table["split"].to_pylist(), table["label"].to_pylist(), strict=True))
    seen: dict = {}
    keep = []
    for row, key in enumerate(keys):
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= rows:
            keep.append(row)
    pq.write_table(table.take(keep), target)
    return target


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project with this checkout's code, faster params and an own state folder; its server is stopped at the end."""
    root = checkout_project.make(tmp_path_factory.mktemp("loop") / "project", checkout_project.FAST)
    yield root
    evergreen(root, "down")


def evergreen(root: Path, *arguments: str, failpoint: str = "") -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(root), "EVERGREEN_FAILPOINT": failpoint}
    env.pop("PREFECT_API_URL", None)
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )


def releases(root: Path):
    return open_store(load_params(root / "params.yaml").store, root)


def newest_run(root: Path) -> Path:
    return sorted((root / ".evergreen" / "runs").iterdir())[-1]


def dvc(root: Path, *arguments: str) -> str:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_killed_in_training_then_started_again_resumes_and_releases(project, tmp_path, monkeypatch):
    subset = write_subset("base.parquet", tmp_path / "base.parquet", 40)
    with monkeypatch.context() as traced:
        traced.setenv("PYTHONPROFILEIMPORTTIME", "1")
        done = evergreen(project, "ingest", str(subset))
    assert done.returncode == 0, done.stderr
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"pyarrow", "dvc.repo"} <= imported
    assert not {"pandas.core.api", "torch", "prefect"} & imported
    before = git(project, "rev-parse", "HEAD"), git(project, "status", "--porcelain")

    killed = evergreen(project, "retrain", failpoint="train_backbone.epoch.1")
    assert killed.returncode == 128 + signal.SIGKILL, killed.stdout + killed.stderr
    assert releases(project).live() is None
    assert "the training says how long it takes after its first batches" in killed.stdout

    done = evergreen(project, "retrain", "--reason", "first")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "promoted" in done.stdout
    words = [line.split() for line in done.stdout.splitlines() if line.startswith("  ")]
    lines = {line[0]: line[1] for line in words if len(line) > 2}
    assert lines["inspect"] == lines["validate"] == lines["embed"] == lines["clean"] == "restored"
    assert lines["train_backbone"] == "ran"
    assert releases(project).live().version == "v0.1.0"
    assert (git(project, "rev-parse", "HEAD"), git(project, "status", "--porcelain")) == before
    assert "classifier@v0.1.0" in git(project, "tag")


def test_afterwards_dvc_status_is_clean_and_repro_runs_nothing(project):
    tree = newest_run(project) / "tree"
    assert "up to date" in dvc(tree, "status")
    assert "Running stage" not in dvc(tree, "repro")


def test_the_released_bundle_serves_and_agrees_with_the_evaluation(project):
    from serving.predictor import Predictor
    from tasks.releases.bundle import verify

    tree = newest_run(project) / "tree"
    bundle = project / ".evergreen" / "restored"
    releases(project).get_bundle(releases(project).live().bundle, bundle)
    verify(bundle)
    predicted = pq.read_table(tree / "artifacts" / "evaluate" / "predictions.parquet").slice(0, 8)
    accepted = pq.read_table(tree / "artifacts" / "validate" / "accepted.parquet")
    rows = accepted.filter(pc.is_in(accepted["id"], predicted["id"]))
    from tasks.dataset.shards import iter_bytes

    images = {}
    for id_, shard, row in zip(*(rows.column(c).to_pylist() for c in ("id", "shard", "row")), strict=True):
        images[id_] = next(iter_bytes(tree / "data" / shard, [row]))[1]
    served = Predictor(bundle).predict([images[id_] for id_ in predicted["id"].to_pylist()])
    expected = np.array(predicted["probabilities"].to_pylist())
    assert np.abs(np.array([p.probabilities for p in served]) - expected).max() < 1e-4


def test_nothing_new_ends_before_any_heavy_import(project):
    code = (
        "import sys; from pathlib import Path; from flows.runs.launch import retrain; code = retrain(Path.cwd(), 'x');"
        "heavy = {'prefect', 'torch', 'dvc', 'timm', 'cleanlab', 'great_expectations', 'pandas'} & set(sys.modules);"
        "print(sorted(heavy)); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "nothing new" in done.stdout
    assert done.stdout.strip().endswith("[]"), done.stdout


def test_the_same_source_again_changes_nothing(project, tmp_path):
    subset = write_subset("base.parquet", tmp_path / "base.parquet", 40)
    head = git(project, "rev-parse", "HEAD")
    done = evergreen(project, "ingest", str(subset))
    assert done.returncode == 0, done.stderr
    assert git(project, "rev-parse", "HEAD") == head


@pytest.mark.long
def test_experiments_are_rows_of_dvcs_table_and_release_nothing(project):
    """The released run has a row, too. A killed experiment goes on, one that was made is not made again, one that
    fails is said, and the winner comes into params.yaml."""
    store, settings = project / ".evergreen/releases", project / "params.yaml"

    def released() -> dict:
        kept = [path for path in store.rglob("*") if path.is_file() and path.parent.name != "looks"]
        return {path: path.stat().st_mtime_ns for path in kept}

    before = released(), git(project, "for-each-ref", "refs/heads", "refs/tags"), settings.read_text()
    asked = ("experiment", "--set", "evaluate.latency_runs=4")
    killed = evergreen(project, *asked, failpoint="pipeline.ran")
    assert killed.returncode == 1, killed.stdout + killed.stderr
    assert "exit code 137" in killed.stderr
    done = evergreen(project, *asked, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    baseline, tried = found["rows"]
    assert baseline["changes"] == {}
    assert tried["changes"] == {"evaluate.latency_runs": 4}
    assert {row["champion"] for row in found["rows"]} == {"v0.1.0"}
    assert baseline["figures"]["gain"] == 0, "the settings as they are give the champion again"
    assert (released(), git(project, "for-each-ref", "refs/heads", "refs/tags"), settings.read_text()) == before
    assert not git(project, "status", "--porcelain")

    failed = evergreen(project, *asked, "--grid", "calibrate.cost_false_negative.no_such_class=3")
    assert failed.returncode == 1
    assert f"{baseline['name']}: settings as they are: made before" in failed.stdout
    assert "no_such_class" in failed.stderr
    (run,) = [
        row for row in json.loads(evergreen(project, "experiments", "--all", "--json").stdout) if row["kind"] == "run"
    ]
    assert run["name"] == newest_run(project).name
    shown = dvc(project, "exp", "show", "--csv", "--drop", "^(?!Experiment|experiment)")
    assert f"{tried['name']},hold," in shown or f"{tried['name']},reject," in shown
    assert f"{run['name']},promote," in shown
    compared = dvc(
        project, "metrics", "diff", run["name"], tried["name"], "--targets", "metrics/experiment.json", "--json"
    )
    assert "experiment.gain" in json.loads(compared)["metrics/experiment.json"]
    plots = json.loads(dvc(project, "plots", "diff", run["name"], tried["name"], "--json"))["data"]
    assert {"loss", "score", "confusion", "reliability"} <= plots.keys()

    applied = evergreen(project, "experiment", "--apply", "--name", tried["name"])
    assert applied.returncode == 0, applied.stdout + applied.stderr
    assert yaml.safe_load(settings.read_text())["evaluate"]["latency_runs"] == 4
    git(project, "checkout", "params.yaml")


def flip_one_class(source: Path, target: Path) -> None:
    """Every label of the most frequent class becomes the second most frequent one."""
    table = pq.read_table(source)
    labels = table["label"].to_pylist()
    first, second = sorted(set(labels), key=labels.count, reverse=True)[:2]
    flipped = [second if label == first else label for label in labels]
    pq.write_table(table.set_column(table.schema.get_field_index("label"), "label", pa.array(flipped)), target)


def test_a_sabotaged_batch_stops_before_training_and_is_tombstoned(project, tmp_path):
    done = evergreen(project, "ingest", str(ROOT / "datasets" / "fashion" / "sabotaged.parquet"))
    assert done.returncode == 0, done.stderr
    live = releases(project).live()
    done = evergreen(project, "retrain")
    assert done.returncode == 3, done.stdout + done.stderr
    assert "if every stage has to run" in done.stdout  # from the first run
    assert "train_backbone" not in done.stdout
    (batch,) = releases(project).tombstones()
    assert batch in done.stdout
    assert releases(project).live() == live
    page = next((project / ".evergreen" / "validation").glob(f"{batch}*.html"))
    assert batch in page.read_text()

    done = evergreen(project, "retrain")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unchanged" in done.stdout, "without the batch the data are as before: the champion comes out again"
    assert releases(project).live() == live


def forget_releases(root: Path) -> None:
    """As if nothing had been released yet; finished stages stay, so a run gets to publishing in seconds."""
    for name in ("releases", "seen", "runs"):  # a finished run's folder would tell the next start how it ended
        shutil.rmtree(root / ".evergreen" / name)
    git(root, "worktree", "prune")
    for name in git(root, "for-each-ref", "--format=%(refname)", "refs/tags", "refs/heads/releases").splitlines():
        git(root, "update-ref", "-d", name)


@pytest.mark.long
def test_killed_while_publishing_then_two_runs_at_once_one_wins_and_the_loser_gates_again(project):
    """Killed between what is uploaded and what goes live (other steps: test_publish.py). Then two
    `evergreen retrain` over different commits, the first over the killed run's, and a third over the same commit as
    the second, held back until both were judged against nothing: one is the first version, the other is judged again
    against it, the third trains nothing."""
    batches = list(releases(project).tombstones())
    forget_releases(project)
    store, runs, processes = releases(project), project / ".evergreen/runs", []
    for batch in batches:
        store.tombstone(batch, why="as before", by="a tester")
    killed = evergreen(project, "retrain", failpoint="publish.registered")
    assert killed.returncode == 128 + signal.SIGKILL, killed.stdout + killed.stderr
    assert store.live() is None
    dead = {folder.name for folder in runs.iterdir()}

    def begun() -> set[str]:
        return {file.parent.name for file in runs.glob("*/started.json")} - dead

    try:
        processes.append(begin(project, "a schedule"))
        wait_until(lambda: len(begun()) == 1 and children(processes[0]))
        (first,) = children(processes[0])
        os.kill(first, signal.SIGSTOP)  # it cannot have uploaded anything before the second has begun
        params = (project / "params.yaml").read_text()
        (project / "params.yaml").write_text(params.replace("reference_rows: 40", "reference_rows: 32"))
        git(project, "commit", "-qam", "fewer rows")
        processes.append(begin(project, "a person"))
        wait_until(lambda: len(begun()) == 2)
        with open(project / ".evergreen/releases/.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # nobody can write: both have been judged by then
            assert list((project / ".evergreen/releases/.tmp").iterdir()) == []
            assert store.live() is None
            os.kill(first, signal.SIGCONT)
            processes.append(begin(project, "an alarm"))
            wait_until(lambda: len(list((project / ".evergreen/releases/.tmp").iterdir())) == 2)  # looks to record
            assert store.live() is None
        said = [process.communicate(timeout=300)[0] for process in processes]
        codes = [process.returncode for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(code in (0, 4) for code in codes), said
    assert "in progress: waiting" in said[2]
    assert "nothing new since run" in said[2]
    both = said[0] + said[1]
    assert both.count("another run published first: judging again") == 1, both
    history = store.history()
    assert [(p.seq, p.version) for p in history] == [(n, f"v0.{n}.0") for n in range(1, len(history) + 1)]
    assert git(project, "tag", "--list", "classifier#prod#*").splitlines() == [
        f"classifier#prod#{p.seq}" for p in history
    ]
    outcomes = sorted(run["outcome"] for name, run in store.runs().items() if name not in dead)
    assert len(outcomes) == 2
    assert outcomes.count("promoted") == len(history) >= 1
    loser = [run for run in store.runs().values() if run["bundle"] != history[0].bundle]
    assert loser[0]["verdict"]["champion"] == history[0].version
    ended = [read_json(file)["outcome"] for file in runs.glob("*/ended.json")]
    assert sorted(ended) == outcomes
    assert run_inputs.current_inputs(project)[2] is not None


def begin(project: Path, reason: str) -> subprocess.Popen:
    env = {**os.environ, "PYTHONPATH": str(project)}
    env.pop("PREFECT_API_URL", None)
    command = [sys.executable, "-m", "flows.cli", "retrain", "--reason", reason]
    return subprocess.Popen(command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children(process: subprocess.Popen) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def wait_until(true, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.long
def test_the_quick_pass_of_the_flows_benchmark(project):
    """On this project's server: starting one more would take as long as the pass itself."""
    quick_pass("flow", 3, **own_api(project).environment())


def test_prefect_shows_the_runs_with_their_endings_and_artifacts(project):
    api = own_api(project)

    def ask(what: str, body: dict) -> list:
        return api.post(f"/{what}/filter", body)

    endings = {run["state_name"] for run in ask("flow_runs", {})}
    assert {"Promoted", "Refused", "Unchanged", "Crashed"} <= endings
    assert "Running" not in endings, "a killed run must not look alive forever"
    keys = {artifact["key"] for artifact in ask("artifacts", {})}
    assert {"inspect", "validate", "clean", "evaluate", "evaluate-plots", "verdict"} <= keys
    assert {"release-report", "validation-page"} <= keys
    plots = next(artifact for artifact in ask("artifacts", {}) if artifact["key"] == "evaluate-plots")
    assert "data:image/png;base64," in plots["data"]


def given_labels(root: Path) -> dict[str, str]:
    """id -> the label that the data set was first given."""
    tables = [pq.read_table(file, columns=["id", "label"]) for file in (root / "data").glob("*.parquet")]
    return dict(zip(*pa.concat_tables(tables).to_pydict().values(), strict=True))


def retrained_labels(root: Path) -> dict[str, str]:
    """id -> the label with which the newest run went on after `validate`."""
    rows = pq.read_table(newest_run(root) / "tree/artifacts/validate/accepted.parquet", columns=["id", "label"])
    return {name: label for name, label in zip(*rows.to_pydict().values(), strict=True) if label}


def stage_outcomes(printed: str) -> dict[str, str]:
    words = [line.split() for line in printed.splitlines() if line.startswith("  ")]
    return {line[0]: line[1] for line in words if len(line) > 2}


def judged_classes(root: Path, live_before, code: int) -> list[str]:
    """The classes that the newest run's model answers with, after checking that the gate's word is what happened."""
    run, live = newest_run(root), releases(root).live()
    verdict, about = read_json(run / "verdict.json"), read_json(run / "tree/artifacts/bundle/bundle.json")
    assert verdict["champion"] == live_before.version
    assert code == (4 if verdict["outcome"] == "reject" else 0)
    promoted = verdict["outcome"] == "promote"
    assert (live.version != live_before.version) == promoted
    assert (live.bundle == digest(run / "tree/artifacts/bundle")) == promoted
    return about["classes"]


@pytest.mark.long
def test_a_merge_of_classes_trains_no_network_and_is_judged(project):
    live, tops = releases(project).live(), ("Shirt", "T-shirt/top")
    done = evergreen(project, "classes", "merge", *tops, "--into", "Top", "--why", "too much alike")
    assert done.returncode == 0, done.stdout + done.stderr
    done = evergreen(project, "retrain")
    ran = stage_outcomes(done.stdout)
    assert {name: ran[name] for name in ("embed", "train_backbone")} == dict.fromkeys(
        ("embed", "train_backbone"), "restored"
    ), done.stdout + done.stderr
    assert {ran[name] for name in ("validate", "train_head", "calibrate", "evaluate", "bundle")} == {"ran"}
    given, found = given_labels(project), retrained_labels(project)
    assert found == {name: "Top" if given[name] in tops else given[name] for name in found}
    assert list(found.values()).count("Top") > 200
    assert judged_classes(project, live, done.returncode) == sorted({*given.values(), "Top"} - {*tops})


@pytest.mark.long
def test_a_split_class_is_trained_in_its_parts_once_people_have_named_them(project, tmp_path):
    live, queue = releases(project).live(), tmp_path / "split.csv"
    done = evergreen(project, "classes", "split", "Bag", "--into", "Purse", "--into", "Sack", "--queue", str(queue))
    assert done.returncode == 0, done.stdout + done.stderr
    with open(queue, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    parts = {row["id"]: ("Purse", "Sack")[number % 2] for number, row in enumerate(rows)}
    with open(queue, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "label"), *parts.items()])
    done = evergreen(project, "label", str(queue), "--reviewer")
    assert done.returncode == 0, done.stdout + done.stderr
    done = evergreen(project, "retrain")
    ran = stage_outcomes(done.stdout)
    assert (ran["embed"], ran["train_backbone"]) == ("restored", "ran"), done.stdout + done.stderr
    found = retrained_labels(project)
    named = {name: label for name, label in found.items() if label in ("Purse", "Sack")}
    assert named == {name: parts[name] for name in found if name in parts}
    assert len(named) > 100
    classes = judged_classes(project, live, done.returncode)
    assert {"Purse", "Sack", "Top"} < set(classes)
    assert not {"Bag", "Shirt"} & set(classes)
