"""A deployed model becomes the first champion, and what is judged against it is approved: real models, git and DVC."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from flows.publishing import held as held_runs
from flows.publishing import run_records
from flows.publishing.adopt import adopt
from flows.publishing.decisions import newest_judgement, preview, try_floors
from flows.publishing.judge_run import judge_run
from flows.publishing.outcomes import Ending
from flows.repo import workspace
from flows.repo.git import git
from flows.repo.pipeline import open_repo, record_data, restore_data
from flows.versions.diff import diff
from serving.predictor import Predictor
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, write_json
from tasks.common.floors import Floor
from tasks.common.params import load_params
from tasks.gate.verdict import GateVerdict
from tasks.inference.thresholds import make_rule
from tasks.releases import bundle
from tasks.releases.store import open_store
from tasks.scoring.targets import encode
from tasks.stages.bundle import stage
from tasks.stages.evaluate import figures
from tasks.stages.evaluate import stage as evaluate_stage
from tasks.stages.runner import STAGES
from tests.support.checkout import ROOT
from tests.support.console import serving
from tests.support.deployed_models import deployed
from tests.support.small_project import CLASSES, SIZE, finished_project, image_bytes


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A git and DVC project with the small project's data and this checkout's pipeline; nothing has run."""
    root = tmp_path_factory.mktemp("adopt") / "project"
    for name in ("tasks", "flows", "serving", "monitoring"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml"):
        (root / name).write_bytes((ROOT / name).read_bytes())
    write_json(root / "tombstones.json", {})
    values = yaml.safe_load((finished_project() / "params.yaml").read_text())
    values["evaluate"] |= {"corruptions": ["dark"], "corruption_images": 20, "latency_runs": 5}
    values["gate"] |= {"resamples": 200, "max_ece": 1.0}
    values["validate"]["min_rows"] = 20
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    shutil.copytree(finished_project() / "data", root / "data")
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "a tester")
    git(root, "config", "user.email", "tester@localhost")
    git(root, "add", "-A")
    record_data(root)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "a project")
    return root


def store(root: Path):
    return open_store(load_params(root / "params.yaml").store, root)


def tool(folder: Path, name: str, *arguments: str) -> str:
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([name, *arguments], cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_a_model_that_does_not_fit_leaves_nothing_behind(project, exported):
    before = git(project, "status", "--porcelain")
    for wrong, says in (
        ({"size": 48}, "reads batch x 3 x 32 x 32"),
        ({"classes": [*CLASSES[1:], CLASSES[0]]}, "another order than the model's: as given, .* in the order"),
        ({"classes": ["x", "y", "z"]}, "spelt alike"),
    ):
        with pytest.raises(EvergreenError, match=says):
            adopt(project, deployed(exported, **wrong), by="ann", why="-", say=str)
    command = [sys.executable, "-m", "flows.cli", "adopt", str(exported), "--classes", "a,b", "--resolution", str(SIZE)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--mean", "0.5", "0.5", "0.5"], cwd=project, env=env, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "answers with 3 values an image, but 2 classes are given (a, b)" in done.stderr
    assert store(project).live() is None
    assert not any((project / ".evergreen/runs").iterdir())
    assert git(project, "worktree", "list").count("\n") == 0
    assert git(project, "status", "--porcelain") == before


def test_an_adopted_model_is_the_first_version(project, exported, tmp_path):
    live = adopt(project, deployed(exported), by="ann", why="it serves line 3", say=str)
    assert (live.version, live.seq, live.by) == ("v0.1.0", 1, "ann")
    assert "adopted from deployed.onnx; balanced accuracy on test" in live.why
    folder = store(project).get_bundle(live.bundle, tmp_path / "bundle")
    predictor = Predictor(folder)
    assert predictor.classes == CLASSES
    assert predictor.predict(image_bytes("Bag"))[0].label == "Bag"
    assert len(pq.read_table(folder / "reference.parquet")) == 40
    assert "Adopted by Evergreen from deployed" in (folder / "card.md").read_text()
    assert json.loads(tool(project, "gto", "show", "--json"))["classifier"]["stage"]["prod"] == "v0.1.0"
    tree = project / ".evergreen/runs" / live.run_id / "tree"
    assert "up to date" in tool(tree, "dvc", "status")
    with pytest.raises(EvergreenError, match=r"v0\.1\.0 is live"):
        adopt(project, deployed(exported), by="ann", why="-", say=str)

    git(tmp_path, "clone", "--quiet", "--no-local", "-b", "classifier@v0.1.0", str(project), "clone")
    remote = project / ".evergreen/remote"
    (tmp_path / "clone/.dvc/config.local").write_text(f"['remote \"store\"']\n    url = {remote}\n")
    tool(tmp_path / "clone", "dvc", "pull")
    assert bundle.digest(tmp_path / "clone/artifacts/bundle") == live.bundle


@pytest.fixture(scope="module")
def challenger(tmp_path_factory, project) -> Path:
    """The small project after `evaluate` and `bundle`: the network that was adopted, trained no further."""
    root = tmp_path_factory.mktemp("challenger") / "project"
    shutil.copytree(finished_project(), root)
    shutil.copyfile(project / "params.yaml", root / "params.yaml")
    params = load_params(root / "params.yaml")
    evaluate_stage.run(root, images=params.images, embed=params.embed, evaluate=params.evaluate)
    shutil.rmtree(root / "artifacts/bundle")
    stage.run(root, images=params.images, bundle=params.bundle, gate=params.gate)
    return root


def finished_run(project: Path, challenger: Path, run_id: str) -> tuple[Path, int]:
    """(worktree of a run that has made `challenger`, its lock)."""
    tree, lock = workspace.create(project, run_id, {})
    repo = open_repo(tree)
    restore_data(repo)
    shutil.copytree(challenger / "artifacts", tree / "artifacts")
    shutil.copytree(challenger / "metrics", tree / "metrics", dirs_exist_ok=True)
    write_json(tree / "artifacts/embed/index.json", {})
    (tree / "artifacts/validate/network").mkdir()
    for name in ("accepted.parquet", "classes.json"):
        shutil.copyfile(tree / "artifacts/validate" / name, tree / "artifacts/validate/network" / name)
    write_json(tree / "artifacts/validate/taxonomy.json", {"names": {name: name for name in CLASSES}, "groups": {}})
    for name in ("inspect", "validate", "embed", "train_backbone", "train_head"):
        write_json(tree / f"metrics/{name}.json", {})
    with chdir(tree):
        for stage in STAGES:
            repo.commit(stage, force=True)
    repo.close()
    return tree, lock


def hold(project: Path, tree: Path, lock: int, verdict: GateVerdict) -> None:
    """What the flow does for a held run."""
    run_id = tree.parent.name
    rev = run_records.preserve_held(tree, store(project), "classifier", run_id, verdict.sentence)
    ending = Ending(outcome="held", sentence=verdict.sentence, verdict=verdict)
    run_records.record(store(project), tree, run_id, ending, rev)
    write_json(tree.parent / "ended.json", ending.model_dump())
    os.close(lock)


def judged(project: Path, tree: Path) -> GateVerdict:
    return judge_run(tree, load_params(tree / "params.yaml"), store(project), store(project).live())


def approve_in_the_console(project: Path, visit) -> None:
    """Bob, an approver, signs in and approves run-2: two clicks and a reason."""
    from tests.flows.console.people.test_sign_in import WORDS, person

    person(project, "bob", "approver")
    with serving(project) as site:
        page = visit(f"{site.url}/sign-in?next=/releases").page
        page.fill("input[name=name]", "bob")
        page.fill("input[name=passphrase]", WORDS)
        page.locator("main button").first.click()
        page.get_by_role("link", name="Decide").click()
        assert "Is anything worse?" in page.inner_text("main")
        page.fill("#decide textarea >> nth=0", "looked at by hand")
        page.get_by_role("button", name="Approve and publish").click()
        page.locator("#decide .tag.good", has_text="done").or_(
            page.locator("#state .tag", has_text="live")
        ).first.wait_for(timeout=120_000)


def test_the_next_challenger_is_judged_against_it_and_a_held_one_can_be_approved(project, challenger, visit):
    tree, lock = finished_run(project, challenger, "run-2")
    verdict = judged(project, tree)
    assert (verdict.outcome, verdict.champion) == ("hold", "v0.1.0"), verdict.sentence
    hold(project, tree, lock, verdict)
    shutil.rmtree(tree.parent)  # the workspace is long gone
    git(project, "worktree", "prune")
    found = preview(project, "run-2", by="bob")
    assert (found.version, found.verdict.outcome, found.is_fresh(store(project).live())) == ("v0.1.0", "hold", True)
    assert newest_judgement(store(project).run("run-2")) == found
    assert store(project).live().version == "v0.1.0", "nothing was published"
    floor = Floor(balanced_accuracy=1.0)  # set after the run: it holds for the run all the same
    settings = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(settings.replace("  floors: []\n", "  floors: [{balanced_accuracy: 1.0}]\n"))
    assert preview(project, "run-2", by="bob").verdict.outcome == "reject"
    with pytest.raises(EvergreenError, match=r"fails floor\.test\.balanced_accuracy"):
        held_runs.approve(project, "run-2", by="bob")
    (project / "params.yaml").write_text(settings)
    assert preview(project, "run-2", by="bob").verdict == found.verdict
    before = store(project).run("run-2")
    version, tried = try_floors(project, "run-2", [floor])
    assert (version, tried.outcome) == ("v0.1.0", "reject")
    assert store(project).run("run-2") == before, "what is tried is not recorded"
    found = newest_judgement(before)
    approve_in_the_console(project, visit)
    live = store(project).live()
    assert not found.is_fresh(live)
    assert (live.version, live.prev, live.by) == ("v0.2.0", "v0.1.0", "bob")
    assert live.why.startswith("approved by bob: looked at by hand; the gate: hold:")
    assert try_floors(project, "run-2", [floor]) == (version, tried), "against what it replaced, not against itself"
    run = store(project).run("run-2")
    assert run["decisions"][0]["verdict"]["champion"] == "v0.1.0"
    assert (run["outcome"], run["version"]) == ("promoted", "v0.2.0")
    assert git(project, "for-each-ref", "refs/evergreen/held") == ""
    assert [folder.name for folder in (project / ".evergreen/runs").iterdir()] == [store(project).history()[0].run_id]


@pytest.mark.long
def test_approval_of_what_the_gate_rejects_today_is_refused(project, challenger, tmp_path):
    """Held once; but its predictions are worse than those of what is live now."""
    worse = tmp_path / "worse"
    shutil.copytree(challenger, worse)
    file = worse / "artifacts/evaluate/predictions.parquet"
    table = pq.read_table(file)
    probabilities = np.roll(np.array(table["probabilities"].to_pylist()), 1, axis=1)
    column = table.schema.get_field_index("probabilities")
    table = table.set_column(column, table.schema.field(column), pa.array(list(probabilities), pa.list_(pa.float32())))
    file.unlink()
    pq.write_table(table, file)
    found = read_json(worse / "metrics/evaluate.json")
    targets = encode(table["label"], CLASSES, "multiclass")
    found["test"] = figures.overall(targets, probabilities, make_rule("multiclass", CLASSES, None, None))
    write_json(worse / "metrics/evaluate.json", found)
    shutil.rmtree(worse / "artifacts/bundle")
    params = load_params(worse / "params.yaml")
    stage.run(worse, images=params.images, bundle=params.bundle, gate=params.gate)

    tree, lock = finished_run(project, worse, "run-3")
    assert judged(project, tree).outcome == "reject"
    held = GateVerdict(outcome="hold", sentence="hold: of old", checks=[], challenger="", champion=None, hard_set=None)
    hold(project, tree, lock, held)
    before = store(project).live()
    with pytest.raises(EvergreenError, match=r"run run-3 was held, but against v0\.2\.0.*reject.*--override"):
        held_runs.approve(project, "run-3", by="bob")
    assert store(project).live() == before
    assert store(project).run("run-3")["outcome"] == "held"
    live = held_runs.override(project, "run-3", by="bob", why="the test images are wrong")
    assert live.version == "v0.3.0"
    found = diff(project, "v0.1.0", "v0.3.0")  # of the adopted model nothing was cleaned
    assert found.images == {}
    assert found.metrics["test.balanced_accuracy"][2] == "worse"
    assert "the test images are wrong; the gate had said: hold: of old" in live.why
