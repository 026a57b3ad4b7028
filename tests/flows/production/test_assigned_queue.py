"""The queue of label issues from the command to the labels, assigned to people with due dates."""

import csv
import shutil
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.production.queue_export import assigned_lines
from monitoring.log.production_log import open_log
from monitoring.review.assignments import Assignment
from tasks.common.params import load_params
from tasks.dataset.shards import live_shards, read_columns
from tasks.labels.storing import write_annotations
from tests.support.annotating import said
from tests.support.live_project import make


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project with six images on which annotators disagree."""
    root = make(tmp_path_factory.mktemp("assigned"), replace={"second_look: 0.02": "second_look: 0.0"})
    (shard, *_) = live_shards(root / "data")
    rows = zip(*read_columns(shard.path, ["id", "label"]).slice(0, 6).to_pydict().values(), strict=True)
    words = [said(n, "Bag" if label != "Bag" else "Shirt", 2, annotator="ann", role="annotator") for n, label in rows]
    write_annotations(root / "data", words)
    return root


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    root = shutil.copytree(made, tmp_path / "main", symlinks=True)
    monkeypatch.chdir(root)
    return root


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def rows_of(file) -> list[dict]:
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def test_issues_go_to_a_table_a_page_and_label_studio_and_their_labels_settle_them(root, tmp_path):
    files = {"--csv": tmp_path / "q.csv", "--html": tmp_path / "q.html", "--label-studio": tmp_path / "q.json"}
    output = run("queue", "--issues", *(str(part) for pair in files.items() for part in pair))
    assert "6 samples to look at: 6 annotators disagree" in output
    assert "how often people err: no second look yet" in output
    assert f"next: fill in the column label, then `evergreen label {files['--csv']} --reviewer`" in output
    assert "next: import it into Label Studio (q.xml is the interface), then `evergreen label EXPORT.json" in output
    assert "next: open q.html in a browser, save labels.csv there, then `evergreen label labels.csv --rev" in output
    rows = rows_of(files["--csv"])
    assert all((tmp_path / row["image"]).read_bytes() for row in rows)
    assert {row["detail"].split(":")[0] for row in rows} == {"first given"}
    page = files["--html"].read_text()
    assert page.count("<figure data-id") == 6
    assert "evergreen label labels.csv --reviewer" in page
    for row in rows[:4]:
        row["label"] = row["given"]
    rows[4]["label"] = "(exclude)"
    with open(files["--csv"], "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    assert "took 5 answers about samples" in run("label", str(files["--csv"]), "--reviewer", "--annotator", "eve")
    left = run("queue", "--issues")
    assert "1 samples to look at" in left
    assert "next: `evergreen queue --issues --html queue.html` writes a page to label on" in left
    shown = run("annotators")
    assert "ann: 6 labels" in shown
    assert "1 images on which annotators disagree wait" in shown


def test_a_queue_is_divided_among_people_and_status_says_what_is_overdue(root, tmp_path):
    today = datetime.now(UTC).date()
    due = (today + timedelta(days=2)).isoformat()
    file = tmp_path / "ann.csv"
    output = run("queue", "--issues", "--assign", "ann", "--due", due, "--most", "2", "--csv", str(file))
    assert f"assigned to ann, due {due}" in output
    assert len(rows_of(file)) == 2
    run("queue", "--issues", "--assign", "bob", "--html", str(tmp_path / "bob.html"))
    page = (tmp_path / "bob.html").read_text()
    assert page.count("<figure data-id") == 4
    assert 'value="bob"' in page
    mine = tmp_path / "again.csv"
    run("queue", "--issues", "--for", "ann", "--csv", str(mine))
    assert [row["id"] for row in rows_of(mine)] == [row["id"] for row in rows_of(file)]
    run("queue", "--issues", "--for", "ann", "--html", str(tmp_path / "again.html"))
    assert f"For ann, until {due}" in (tmp_path / "again.html").read_text(), "the day that was set stays on the page"
    params = load_params(root / "params.yaml")
    assert assigned_lines(root, params) == [f"ann: 2 samples due {due}", "bob: 4 samples"]
    ids = tuple(row["id"] for row in rows_of(file))
    late = Assignment(person="carl", due=today - timedelta(days=1), ids=ids, at=datetime.now(UTC), by="boss")
    open_log(root, params).store.create("assignments/late.json", late.model_dump_json().encode())
    assert f"carl: 2 samples OVERDUE since {late.due.isoformat()}" in assigned_lines(root, params)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--due", "2999-01-01"], "--due needs --assign"),
        (["--assign", "ann", "--due", "2020-01-01"], "has passed"),
        (["--pick", "3"], "leave them out with --issues"),
    ],
)
def test_a_queue_that_cannot_be_assigned_says_why(root, arguments, message):
    result = CliRunner().invoke(app, ["queue", "--issues", *arguments])
    assert message in str(result.exception)
