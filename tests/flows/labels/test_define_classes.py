"""Definitions of classes: versioned beside the data, shown where people label."""

import shutil

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.labels.define import guides, meanings
from tasks.common.errors import EvergreenError
from tasks.dataset.shards import live_shards, read_columns
from tasks.labels.definitions import history
from tests.support.checkout import git
from tests.support.live_project import make


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("define"))


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    root = shutil.copytree(made, tmp_path / "main", symlinks=True)
    monkeypatch.chdir(root)
    return root


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["classes", "define", *arguments])
    if isinstance(result.exception, EvergreenError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def ids(root) -> list[str]:
    (shard, *_) = live_shards(root / "data")
    return read_columns(shard.path, ["id"])["id"].to_pylist()


def test_a_definition_is_kept_with_its_history_and_shown_where_people_label(root, tmp_path):
    first, second, third = ids(root)[:3]
    assert "no definition yet" in run("Bag")
    images = ["--image", first, "--image", second[:12], "--image", third]
    assert run("Bag", "--text", "Carried by <hand>", *images) == "Bag is defined\n"
    assert git(root, "show", "--stat", "--format=%s", "HEAD").splitlines()[0] == "Define the class Bag"
    assert meanings(root / "data")["Bag"].images == (first, second, third)
    assert "nothing new" in run("Bag", "--text", "Carried by <hand>")
    run("Bag", "--text", "Has a handle")
    assert [one.text for one in history(root / "data")] == ["Carried by <hand>", "Has a handle"]
    assert "Has a handle" in run("Bag")
    assert "Has a handle" in CliRunner().invoke(app, ["classes"], env={"COLUMNS": "200"}).output
    (guide,) = guides(root, ["Bag", "Trouser"], 10**6)
    assert (guide.name, guide.text, len(guide.images)) == ("Bag", "Has a handle", 3)
    page = tmp_path / "q.html"
    assert CliRunner().invoke(app, ["queue", "--issues", "--html", str(page), "--most", "2"]).exit_code == 0
    text = page.read_text()
    assert "<summary>Bag</summary><p>Has a handle</p>" in text
    assert text.count('alt="Bag, example') == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Spaceship", "--text", "flies"], "'Spaceship' is not a class"),
        (["Bag", "--text", "x" * 3000], "at most 2000"),
        (["Bag", "--image", "nothing.png"], "nothing.png"),
        (["Bag", *(["--image", "a"] * 4)], "at most 3"),
    ],
)
def test_a_definition_that_does_not_fit_is_refused(root, arguments, message):
    before = git(root, "rev-parse", "HEAD")
    with pytest.raises(EvergreenError, match=message):
        run(*arguments)
    assert history(root / "data") == []
    assert git(root, "rev-parse", "HEAD") == before
