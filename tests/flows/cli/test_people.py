"""`evergreen people`, `evergreen alerts`, and what help says of flags."""

import re

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.console.people import store
from tests.support.checkout import ROOT, git

RUN = CliRunner()


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "params.yaml").write_text(
        (ROOT / "params.yaml").read_text().replace("public_url: null", "public_url: https://x.example")
    )
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "config", "user.name", "Bea")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(*command: str, code: int = 0) -> str:
    done = RUN.invoke(app, command)
    assert done.exit_code == code, done.output
    return done.output


def test_people_are_added_listed_changed_and_revoked(project):
    assert "nobody yet" in said("people", "list")
    output = said("people", "add", "Anna", "--role", "labeller")
    token = re.search(r"https://x\.example/join/(\S+)", output)[1]
    assert "within 7 days" in output
    assert store.invited(project, token) == "Anna"
    listed = said("people", "list")
    assert re.search(r"Anna +labeller +since \S+, added by Bea; has not chosen a passphrase yet", listed)
    assert token not in listed
    assert "Anna is now approver" in said("people", "role", "Anna", "approver")
    other = re.search(r"/join/(\S+)", said("people", "link", "Anna"))[1]
    assert [store.invited(project, one) for one in (token, other)] == [None, "Anna"]
    said("people", "revoke", "Anna")
    assert re.search(r"Anna +revoked on", said("people", "list"))
    changes = [(change.by, change.what) for change in store.read_people(project).history]
    assert changes[1:3] == [("Bea", "made Anna approver"), ("Bea", "made a link for Anna")]
    for wrong in (("add", "x", "--role", "boss"), ("revoke", "Anna"), ("role", "Carl", "admin")):
        assert RUN.invoke(app, ["people", *wrong]).exit_code != 0


def test_alerts_lists_addresses_without_their_secrets(project, monkeypatch):
    monkeypatch.delenv("EVERGREEN_ALERTS", raising=False)
    assert "set EVERGREEN_ALERTS" in said("alerts")
    monkeypatch.setenv("EVERGREEN_ALERTS", "json://ann:s3cret@127.0.0.1:9/x nonsense://s3cret")
    listed = said("alerts")
    assert "s3cret" not in listed
    assert listed.splitlines() == ["1  json://127.0.0.1:9/…", "2  nonsense://…   apprise does not understand it"]


@pytest.mark.parametrize("command", [[], ["retrain"], ["ingest"], ["people", "add"], ["classes"]])
def test_help_shows_no_type_behind_a_flag(command):
    text = said(*command, "--help")
    assert "--help" in text
    assert "<bool>" not in text
