"""What a run's training starts from: the pin in params.yaml, chosen only where the training has to run."""

from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.experiments.run import bring
from flows.repo.pipeline import bring_up_to_date, open_repo
from flows.repo.start_pin import pinned_at, with_pin, write_pin
from flows.runs.start import no_longer_trained, pin_start
from flows.versions.roots import read_roots
from tasks.common.errors import EvergreenError
from tasks.common.files import parse_yaml
from tasks.common.params import load_params
from tasks.common.paths import cache_dir
from tasks.common.sections.training import TrainBackboneParams
from tasks.releases.pointer import Pointer, successor
from tasks.releases.store import Releases, open_store
from tests.support import live_project
from tests.support.checkout import git

PIN = "b" * 64
TRAINED = "artifacts/train_backbone"
PIPELINE = f"""stages:
  validate:
    cmd: 'true'
    deps: [tombstones.json]
    outs: [artifacts/validate]
  train_backbone:
    cmd: 'true'
    params: [train_backbone]
    deps: [artifacts/validate/accepted.parquet]
    outs: [{TRAINED}]
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "train_backbone:\n  start_bundle: null # none\n  seed: 0\n",
            f"train_backbone:\n  start_bundle: {PIN} # none\n  seed: 0\n",
        ),
        (
            "a: 1\ntrain_backbone:\n  # why\n  seed: 0\nb: 2\n",
            f"a: 1\ntrain_backbone:\n  start_bundle: {PIN}\n  # why\n  seed: 0\nb: 2\n",
        ),
        ("train_backbone:\n    seed: 0", f"train_backbone:\n    start_bundle: {PIN}\n    seed: 0"),
        ("other:\n  start_bundle: null\n", "other:\n  start_bundle: null\n"),
    ],
)
def test_a_pin_changes_one_line_of_params(text, expected):
    assert with_pin(text, PIN) == expected
    assert with_pin(text, None) == text


def test_a_section_in_one_line_is_refused_with_what_to_write(tmp_path):
    (tmp_path / "params.yaml").write_text("data: {task: multiclass}\ntrain_backbone: {seed: 3}\n")
    with pytest.raises(EvergreenError, match=r"start_bundle: null` below"):
        write_pin(tmp_path, PIN)


def test_images_that_left_the_training_split_are_counted():
    before = pa.table({"id": ["a", "b", "c", "d"], "split": ["train", "train", "train", "test"]})
    now = pa.table({"id": ["a", "b", "d", "e"], "split": ["train", "hard", "train", "train"]})
    assert no_longer_trained(before, now) == 2  # b is in the hard set, c is gone
    assert no_longer_trained(before, before) == 0


@pytest.fixture
def root(tmp_path) -> Path:
    """A live model whose commit records its training, with train_backbone.start: champion."""
    main = live_project.make(tmp_path, replace={"start: pretrained": "start: champion"})
    (main / "dvc.yaml").write_text(PIPELINE)
    (main / "tombstones.json").write_text("{}\n")
    (main / ".gitignore").write_text("/data\n/artifacts\n/metrics\n/.evergreen\n")
    released(main, "v0.2.0")
    return main


def store(root: Path) -> Releases:
    return open_store(load_params(root / "params.yaml").store, root)


def released(root: Path, version: str) -> Pointer:
    """Record what lies in the checkout as a training, commit it, and make its bundle live."""
    trained(root)
    git(root, "add", "-A")
    git(root, "commit", "-qm", version)
    releases = store(root)
    live = releases.live()
    card = root / "artifacts/bundle/card.md"  # each version's bundle is its own
    text = card.read_text()
    card.unlink()
    card.write_text(f"{text}\n{version}\n")
    from tasks.releases.bundle import write_manifest

    (root / "artifacts/bundle/MANIFEST.json").unlink()
    write_manifest(root / "artifacts/bundle")
    digest = releases.put_bundle(root / "artifacts/bundle")
    rev = git(root, "rev-parse", "HEAD").strip()
    return releases.promote(
        successor(live, version=version, run_id=version, git_rev=rev, bundle=digest, by="a", why="better")
    )


def trained(root: Path) -> list[str]:
    """Bring both stages up to date, the training leaving what it left; their outcomes."""
    kept = {
        file.name: file.read_bytes()
        for name in ("validate", "train_backbone")
        for file in (root / "artifacts" / name).iterdir()
        if file.is_file()
    }

    def run(name: str, root: Path) -> None:
        folder = root / "artifacts" / name
        folder.mkdir(parents=True)
        for file in (
            ("accepted.parquet", "classes.json") if name == "validate" else ("weights.safetensors", "model.json")
        ):
            (folder / file).write_bytes(kept[file])

    repo = open_repo(root)
    try:
        return [bring_up_to_date(repo, name, run) for name in ("validate", "train_backbone")]
    finally:
        repo.close()


def pin(root: Path) -> str:
    return pin_start(root, load_params(root / "params.yaml"), store(root))


def pinned(root: Path) -> str | None:
    return load_params(root / "params.yaml").train_backbone.start_bundle


def change_training(root: Path) -> None:
    file = root / "params.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.005", "learning_rate: 0.004"))


def test_a_training_that_must_run_starts_from_the_live_bundle(root):
    change_training(root)
    assert pin(root) == "from v0.2.0"
    live = store(root).live().bundle
    assert pinned(root) == live
    assert (cache_dir("bundles", root) / live / "weights.safetensors").is_file()


def test_a_pin_written_while_the_repository_is_open_is_what_the_lock_records(root):
    repo = open_repo(root)
    try:
        change_training(root)
        assert bring_up_to_date(repo, "validate", lambda name, root: None) == "unchanged"
        pin(root)
        kept = {file.name: file.read_bytes() for file in (root / TRAINED).iterdir()}

        def train(name: str, root: Path) -> None:
            (root / TRAINED).mkdir()
            for file, content in kept.items():
                (root / TRAINED / file).write_bytes(content)

        assert bring_up_to_date(repo, "train_backbone", train) == "ran"
    finally:
        repo.close()
    lock = parse_yaml((root / "dvc.lock").read_text())["stages"]["train_backbone"]
    assert lock["params"]["params.yaml"]["train_backbone"]["start_bundle"] == store(root).live().bundle


def test_a_promotion_alone_trains_nothing(root):
    """v0.3.0 was trained from v0.2.0. With the same data and settings, its own start is the one that is pinned."""
    change_training(root)
    pin(root)
    first = pinned(root)
    live = released(root, "v0.3.0")
    assert pinned_at(root, live.git_rev) == first != live.bundle
    write_pin(root, None)  # HEAD of the user's branch names no start
    assert pin(root) == "as it was trained before"
    assert pinned(root) == first
    assert trained(root) == ["unchanged", "unchanged"]


def test_a_commit_that_names_its_start_keeps_it(root):
    first = store(root).live().bundle
    change_training(root)
    pin(root)
    released(root, "v0.3.0")  # its params.yaml, now HEAD's, names v0.2.0's bundle
    file = root / "params.yaml"
    file.write_text(file.read_text().replace("learning_rate: 0.004", "learning_rate: 0.003"))
    assert pin(root) == f"from the bundle {first[:12]} that HEAD names"
    assert pinned(root) == first


def test_no_start_is_pinned_where_none_is_asked_for_or_none_can_be(root, tmp_path):
    change_training(root)
    file = root / "params.yaml"
    text = file.read_text()
    file.write_text(text.replace("start: champion", "start: pretrained"))
    assert (pin(root), pinned(root)) == ("", None)
    file.write_text(
        text.replace("  backbone: tf_efficientnet_lite0\n  pretrained", "  backbone: resnet10t\n  pretrained")
    )
    assert "another backbone (tf_efficientnet_lite0)" in pin(root)
    assert pinned(root) is None


def test_a_champion_that_knows_images_of_today_s_hard_set_is_no_start(root):
    """Its network was trained on them: the gate would believe that it recognises what it has learnt by heart."""
    change_training(root)
    file = root / "artifacts/validate/accepted.parquet"
    rows = pq.read_table(file).to_pylist()
    moved = next(row for row in rows if row["split"] == "train")
    moved["split"] = "hard"
    schema = pq.read_schema(file)
    file.unlink()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
    assert "v0.2.0 was trained on 1 image(s) that are not training images now" in pin(root)
    assert pinned(root) is None


def test_gc_keeps_the_bundle_that_a_kept_version_started_from(root):
    change_training(root)
    pin(root)
    start = pinned(root)
    released(root, "v0.3.0")
    repo = open_repo(root)
    try:
        params = load_params(root / "params.yaml")
        digests = read_roots(root, repo, store(root), params, {"v0.1.0", "v0.2.0"}).digests
    finally:
        repo.close()
    assert start in digests


def test_the_pin_is_part_of_the_schema():
    assert TrainBackboneParams(start_bundle=PIN).start_bundle == PIN
    with pytest.raises(ValueError, match="start_bundle"):
        TrainBackboneParams(start_bundle="v0.2.0")


def test_an_experiment_starts_where_a_run_would(root):
    change_training(root)
    pin(root)
    first = pinned(root)
    released(root, "v0.3.0")
    write_pin(root, None)  # as HEAD has it
    with closing(open_repo(root)) as repo:
        outcome = bring(repo, root, "train_backbone", load_params(root / "params.yaml"), store(root))
    assert outcome != "ran"
    assert pinned(root) == first
