"""`evergreen classes` on a project in git and DVC: plans, one commit, undo, branches, hostile names."""

import json
import shutil
from contextlib import chdir

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli.main import app
from flows.labels.class_list import class_rows
from flows.labels.class_queue import waiting_images, write_queue
from flows.labels.class_reading import current_taxonomy, names_of_then
from flows.labels.class_settings import with_classes
from flows.labels.classes import plan_change, record_change
from flows.production.queue_export import label_classes
from flows.release_report.changes import class_counts
from flows.repo.git import git
from flows.versions.diff import diff
from tasks.common.errors import DataError, EvergreenError
from tasks.common.params import load_params
from tasks.dataset import shards
from tasks.labels.changes import FOLDER, Change, read_changes
from tasks.labels.effective import effective_samples
from tasks.labels.taxonomy import compose
from tests.support import released_project, versions_project
from tests.support.checkout import ROOT
from tests.support.children import killed_at
from tests.support.ingesting import folder, take
from tests.support.shared import networks

WHO = {"why": "because", "by": "ann"}


@pytest.fixture
def root(tmp_path):
    found = versions_project.copy(tmp_path / "p", 1)
    git(found, "add", "-A")
    git(found, "commit", "-qm", "what the release left", "--allow-empty")
    return found


def change(root, kind, old="", new="", **more):
    plan = plan_change(root, kind, old.split(), new.split(), **WHO, **more)
    record_change(root, plan)
    return plan


def labels(root) -> set[str]:
    samples = effective_samples(root / "data", compose(read_changes(root / "data")))
    return set(samples["label"].drop_null().to_pylist())


def evergreen(root, *arguments: str) -> str:
    """What the command prints."""
    with chdir(root):
        done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def killed_change(root) -> None:
    change(root, "rename", "cat", "feline")


def test_a_merge_is_one_commit_of_data_dvc_and_says_first_what_it_touches(root):
    (root / "staged.txt").write_text("mine")
    git(root, "add", "staged.txt")
    before = git(root, "rev-parse", "HEAD")
    plan = plan_change(root, "merge", ["cat", "dog"], ["pet"], **WHO)
    count = shards.batches(root / "data")[0].rows
    assert f"{count} samples (35 'cat'; 35 'dog')" in " ".join(plan.lines())
    assert read_changes(root / "data") == [], "a plan writes nothing"
    record_change(root, plan)
    assert git(root, "rev-list", "--count", f"{before}..HEAD") == "1"
    assert git(root, "show", "--name-only", "--format=", "HEAD") == "data.dvc"
    message = git(root, "log", "-1", "--format=%B")
    assert "'cat', 'dog' merged into 'pet'" in message
    assert "because" in message
    assert labels(root) == {"pet"}
    assert shards.batches(root / "data")[0].rows == count


def test_rename_then_merge_then_split_and_every_undo(root):
    first = change(root, "rename", "cat", "feline")
    change(root, "merge", "feline dog", "pet")
    split = change(root, "split", "pet", "indoor outdoor")
    assert compose(read_changes(root / "data")).read("cat").among == ("indoor", "outdoor")
    assert [(row.name, row.note) for row in class_rows(root)[0]] == [("pet", "split into indoor, outdoor: stays whole")]
    with pytest.raises(DataError, match="takes away the class 'feline'"):
        plan_change(root, "undo", undoes=first.change.id, **WHO)
    change(root, "undo", undoes=split.change.id[:6])
    assert labels(root) == {"pet"}
    merged = read_changes(root / "data")[1]
    change(root, "undo", undoes=merged.id)
    assert labels(root) == {"feline", "dog"}
    change(root, "undo", undoes=first.change.id)
    assert labels(root) == {"cat", "dog"}
    assert len(read_changes(root / "data")) == 6


@pytest.mark.parametrize(
    ("kind", "old", "new", "reason"),
    [
        ("rename", ["kat"], ["x"], "'kat' is not a class: did you mean 'cat'"),
        ("rename", ["cat"], ["dog"], "'dog' is a class already: name it among"),
        ("add", [], ["dog"], "'dog' is a class already"),
        ("rename", ["cat"], ["  "], "cannot be the name of a class"),
        ("rename", ["cat"], ["a\nb"], "control characters"),
        ("rename", ["cat"], ["x" * 201], "at most 200 allowed"),
        ("retire", ["\ud800"], [], "not valid Unicode"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(root, kind, old, new, reason):
    before = versions_project.tree(root / "data")
    with pytest.raises(EvergreenError, match=reason):
        plan_change(root, kind, old, new, **WHO)
    assert versions_project.tree(root / "data") == before


def test_hostile_names_survive_the_round_trip(root):
    names = ["</script><script>alert(1)</script>", "=1+1", "[bold]x[/bold]", "../../etc", "e\u0301", "a, b: {c}"]
    before = "cat"
    for name in names:
        plan = plan_change(root, "rename", [before], [name], **WHO)
        record_change(root, plan)
        before = plan.change.new[0]
    assert before == "a, b: {c}"
    assert labels(root) == {"dog", before}
    out = evergreen(root, "classes")
    assert "</script>" in out
    assert "[bold]x[/bold]" in out


def test_two_branches_that_each_changed_classes_are_merged(root):
    git(root, "checkout", "-q", "-b", "other")
    change(root, "rename", "cat", "feline")
    theirs = {file.name: file.read_bytes() for file in (root / "data" / FOLDER).glob("*.json")}
    git(root, "checkout", "-q", "main")
    for file in (root / "data" / FOLDER).glob("*.json"):
        file.unlink()
    change(root, "rename", "dog", "hound")
    for name, content in theirs.items():  # what DVC's merge driver does: the union of both folders
        (root / "data" / FOLDER / name).write_bytes(content)
    assert labels(root) == {"feline", "hound"}
    assert [one.number for one in read_changes(root / "data")] == [1, 1]


def test_two_branches_that_contradict_are_named_and_one_can_be_undone(root):
    change(root, "rename", "cat", "feline")
    mine = read_changes(root / "data")[0]
    other = Change(**{**mine.model_dump(), "new": ("felid",), "by": "bob"})
    file = root / "data" / FOLDER / f"{other.number:06d}-{other.id}.json"
    file.write_text(json.dumps({"schema": 1, **other.model_dump(mode="json")}))
    with pytest.raises(DataError, match="not a class any more since change") as refused:
        class_rows(root)
    assert "`evergreen classes undo" in str(refused.value)
    change(root, "undo", undoes=other.id)
    assert labels(root) == {"feline", "dog"}


def test_listed_classes_change_in_the_same_commit_and_nothing_else_of_params(root):
    file = root / "params.yaml"
    text = file.read_text().replace("  classes: null\n", "  classes:  # ours\n  - cat\n  - dog\n")
    file.write_text(text)
    git(root, "commit", "-qam", "list classes")
    plan = change(root, "rename", "dog", "hound")
    assert file.read_text() == text.replace("  classes:  # ours\n  - cat\n  - dog\n", '  classes: ["cat", "hound"]\n')
    assert set(git(root, "show", "--name-only", "--format=", "HEAD").split()) == {"data.dvc", "params.yaml"}
    change(root, "undo", undoes=plan.change.id)
    assert load_params(file).data.classes == ["cat", "dog"]
    file.write_text(file.read_text() + "# mine\n")
    with pytest.raises(EvergreenError, match=r"params.yaml has changes that are not committed"):
        change(root, "rename", "dog", "hound")


@pytest.mark.parametrize(
    "listing",
    ["  classes: [cat, dog]\n", "  classes: [cat,\n    dog]\n", "  classes:\n    - cat\n    # why\n    - dog\n\n"],
)
def test_only_the_lines_of_data_classes_change(listing):
    text = (ROOT / "params.yaml").read_text()
    before = text.replace("  classes: null\n", listing)
    after = with_classes(before, ["a: b", 'say "x"'])
    assert yaml.safe_load(after)["data"]["classes"] == ["a: b", 'say "x"']
    kept = text.replace("  classes: null\n", "")
    rest = "".join(line for line in after.splitlines(keepends=True) if not line.startswith("  classes:"))
    assert rest.replace("\n\n  seed", "\n  seed") == kept


def test_a_cost_of_a_class_that_ends_is_refused(root):
    file = root / "params.yaml"
    file.write_text(file.read_text().replace("cost_false_negative: {}", "cost_false_negative: {cat: 3}"))
    with pytest.raises(DataError, match=r"cost_false_negative in params.yaml names 'cat'"):
        plan_change(root, "rename", ["cat"], ["feline"], **WHO)


def test_a_floor_of_a_class_that_ends_is_refused(root):
    file = root / "params.yaml"
    file.write_text(file.read_text().replace("floors: []", "floors: [{class: cat, recall: 0.9}]"))
    with pytest.raises(DataError, match=r"gate.floors in params.yaml names the class 'cat'"):
        plan_change(root, "rename", ["cat"], ["feline"], **WHO)


@pytest.mark.parametrize("point", ["classes.written", "classes.recorded"])
def test_a_change_that_was_killed_is_completed_by_the_same_command(root, point):
    before = git(root, "rev-parse", "HEAD")
    assert killed_at(point, killed_change, root)
    evergreen(root, "classes", "rename", "cat", "feline")
    assert git(root, "rev-list", "--count", f"{before}..HEAD") == "1"
    assert labels(root) == {"feline", "dog"}
    assert git(root, "status", "--porcelain") == ""
    assert len(read_changes(root / "data")) == 1


def test_when_git_refuses_the_commit_nothing_is_left(root):
    file = root / "params.yaml"
    file.write_text(file.read_text().replace("  classes: null\n", "  classes: [cat, dog]\n"))
    git(root, "commit", "-qam", "list classes")
    hook = root / ".git/hooks/pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho no >&2; exit 1\n")
    hook.chmod(0o755)
    before = versions_project.tree(root / "data"), file.read_text(), (root / "data.dvc").read_text()
    with pytest.raises(EvergreenError, match=r"git refuses the commit of data.dvc"):
        change(root, "rename", "cat", "feline")
    assert (versions_project.tree(root / "data"), file.read_text(), (root / "data.dvc").read_text()) == before


def test_a_dry_run_changes_nothing_and_the_list_shows_counts_and_history(root):
    before = versions_project.tree(root)
    assert "nothing was changed" in evergreen(root, "classes", "merge", "cat", "dog", "--into", "pet", "--dry-run")
    assert git(root, "status", "--porcelain") == ""
    assert versions_project.tree(root / "data") == {
        name.removeprefix("data/"): content for name, content in before.items() if name.startswith("data/")
    }
    evergreen(root, "classes", "group", "animal", "cat", "dog", "--why", "coarse")
    out = evergreen(root, "classes")
    assert "animal" in out
    assert "coarse" in out
    about = json.loads(evergreen(root, "classes", "--json"))
    assert {row["name"]: row["images"]["train"] for row in about["classes"]} == {"cat": 18, "dog": 18}
    assert about["changes"][0]["kind"] == "group"


def test_without_data_here_the_names_of_head_are_read(root):
    change(root, "rename", "cat", "feline")
    shutil.rmtree(root / "data")
    assert current_taxonomy(root).rename("cat") == "feline"


def test_a_split_opens_a_queue_of_every_image_of_the_class(root, tmp_path):
    networks(root)
    change(root, "split", "cat", "indoor outdoor")
    waiting = waiting_images(root, "cat")
    assert len(waiting.rows) == 35
    assert {row["suggested"] for row in waiting.rows} == {"cluster 1", "cluster 2"}
    write_queue(root, waiting, tmp_path / "q.csv")
    lines = (tmp_path / "q.csv").read_text().splitlines()
    assert lines[0] == "id,label,given,suggested,confidence,split,path,image"
    assert len(list((tmp_path / "q").iterdir())) == 35
    page, studio = tmp_path / "q.html", tmp_path / "q.json"
    options = ["--to", tmp_path / "q.csv", "--html", page, "--label-studio", studio]
    said = evergreen(root, "classes", "queue", "cat", *map(str, options))
    assert "or open q.html in a browser" in said
    assert page.read_text().count("<figure") == 35
    assert '<option value="indoor">' in page.read_text()
    assert [task["data"]["evergreen_id"] for task in json.loads(studio.read_text())] == [r["id"] for r in waiting.rows]
    assert '<Choice value="outdoor"/>' in studio.with_suffix(".xml").read_text()
    with pytest.raises(DataError, match="'dog' was not split into parts: classes that were split: 'cat'"):
        waiting_images(root, "dog")


def test_a_rollback_across_a_change_says_what_the_older_model_answers(tmp_path):
    root = versions_project.copy(tmp_path / "p", 2)
    change(root, "rename", "cat", "feline")
    out = evergreen(root, "rollback", "--why", "test", "--model-only")
    assert "v0.1.0 is live" in out
    assert "it answers with names of its time, in brackets how each is read today: 'cat' ('feline')" in out
    assert names_of_then(root, ["feline", "dog"]) is None
    change(root, "split", "dog", "hound poodle")
    change(root, "retire", "feline")
    assert names_of_then(root, ["cat", "dog"]).endswith("'cat' (retired), 'dog' (one of 'hound', 'poodle')")


def test_versions_of_before_and_after_a_rename_are_compared_in_the_names_of_today(tmp_path):
    root = released_project.copy(tmp_path)
    before = diff(root, "v0.1.0", "v0.2.0")
    change(root, "rename", "bag", "sack")
    after = diff(root, "v0.1.0", "v0.2.0")
    assert before.images
    assert after.images == {
        split: {"sack" if name == "bag" else name: counts for name, counts in of.items()}
        for split, of in before.images.items()
    }
    recalls = {name.replace("of bag", "of sack"): value for name, value in before.metrics.items()}
    assert after.metrics == recalls


def test_the_release_report_counts_images_in_the_names_of_today():
    merged = Change(number=1, kind="merge", old=["cat", "lynx"], new=["feline"], at="", by="", why="", state="")
    before, now = {"cat": 3, "lynx": 4, "dog": 5}, {"feline": 8, "dog": 5}
    assert class_counts(before, now, compose([merged])) == [("feline", 7, 8), ("dog", 5, 5)]


def test_labels_of_the_past_and_of_tomorrow_are_allowed(root):
    params = load_params(root / "params.yaml")
    change(root, "rename", "cat", "feline")
    change(root, "add", "", "bird")
    change(root, "split", "dog", "hound poodle")
    assert label_classes(root, params) == ["feline", "hound", "poodle", "bird"]


def test_an_import_with_names_of_the_past_is_taken_where_classes_are_listed(root, tmp_path):
    change(root, "rename", "cat", "feline")
    source = folder(tmp_path / "new", 2, start=900, classes=["cat", "zebra"])
    data = load_params(root / "params.yaml").data.model_copy(update={"classes": ["feline", "dog"]})
    report = take(root, source, data=data)
    assert (report.taken, [one.reason for one in report.quarantined]) == (1, ["unknown_label"])
    assert labels(root) == {"feline", "dog"}
