"""Tokens are shown once, stored as hashes, and open nothing once revoked."""

import json
import stat

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.predictor import tokens
from flows.predictor.tokens import TokenBook, create, read_tokens, revoke
from serving.service.access import SCOPES, Client
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tests.support.waiting import until


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(tokens, "LOOK_SECONDS", 0.0)
    (tmp_path / "params.yaml").write_text("")
    (tmp_path / "dvc.yaml").write_text("")
    (tmp_path / ".git").mkdir()
    return tmp_path


def test_a_token_opens_its_scopes_until_it_is_revoked(root):
    book = TokenBook(root)
    token = create(root, "line-3", ["predict", "feedback"], "ann")
    assert book.client(token) == Client("line-3", ("feedback", "predict"))
    assert book.client(token + "x") is None
    revoke(root, "line-3", "bea")
    assert book.client(token) is None
    known = read_tokens(root)["line-3"]
    assert (known.by, known.revoked_by) == ("ann", "bea")
    with pytest.raises(EvergreenError, match="was revoked: take a new one, such as line-3-2"):
        create(root, "line-3", ["predict"], "ann")
    with pytest.raises(EvergreenError, match="not in use"):
        revoke(root, "line-3", "ann")


def test_only_hashes_are_stored_in_a_private_file(root):
    token = create(root, "app", ["predict"], "ann")
    file = root / ".evergreen/tokens.json"
    assert token not in file.read_text()
    assert token.removeprefix(tokens.PREFIX) not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert len(token) > 50


def test_the_checkouts_secret_opens_everything(root):
    assert TokenBook(root).client(checkout(root).secret) == Client("checkout", SCOPES)


def test_a_damaged_list_opens_nothing_but_the_checkout(root):
    token = create(root, "app", ["predict"], "ann")
    book = TokenBook(root)
    assert book.client(token)
    file = root / ".evergreen/tokens.json"
    good = file.read_text()
    file.write_text("{")
    until(lambda: book.client(token) is None)
    assert TokenBook(root).client(token) is None
    assert book.client(checkout(root).secret)
    with pytest.raises(EvergreenError, match="damaged"):
        read_tokens(root)
    file.write_text(json.dumps(json.loads(good) | {"schema": 99}))
    with pytest.raises(EvergreenError, match="newer Evergreen"):
        read_tokens(root)
    file.write_text(good)
    until(lambda: book.client(token) is not None)


@pytest.mark.parametrize("name", ["", "Line", "a b", "checkout", "x" * 41, "a/b", "-a", "ü"])
def test_names_that_records_could_not_show_are_refused(root, name):
    with pytest.raises(EvergreenError, match="cannot name a token"):
        create(root, name, ["predict"], "ann")


def test_an_unknown_scope_is_refused(root):
    with pytest.raises(EvergreenError, match="expected scopes of predict, feedback, metrics"):
        create(root, "app", ["admin"], "ann")


def test_the_command_shows_a_token_once(root, monkeypatch):
    monkeypatch.chdir(root)
    run = CliRunner()
    assert "none yet" in run.invoke(app, ["tokens", "list"]).output
    made = run.invoke(app, ["tokens", "create", "app", "--scope", "feedback", "--scope", "predict"])
    token = made.stdout.strip()  # alone, so that a script can keep it
    assert TokenBook(root).client(token) == Client("app", ("feedback", "predict"))
    listed = run.invoke(app, ["tokens", "list"]).output
    assert "feedback, predict" in listed
    assert token not in listed
    assert run.invoke(app, ["tokens", "revoke", "app"]).exit_code == 0
    assert "revoked on" in run.invoke(app, ["tokens", "list"]).output
