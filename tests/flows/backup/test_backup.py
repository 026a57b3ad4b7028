"""`evergreen backup` in a project in use, `evergreen restore` in a fresh clone: the same labels, log and releases."""

import io
import json
import re
import shutil
import stat
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from flows.backup.archive import MANIFEST
from flows.backup.backup import backup
from flows.backup.restore import restore_backup
from flows.cli.main import app
from flows.console.index.index import Index
from flows.console.people import passphrase
from flows.console.people import store as people
from flows.erasure.forget import erase_images
from flows.labels import journal
from flows.labels.journal import Answer
from flows.project import uploads
from flows.repo.git import git
from flows.versions.connect import connect
from flows.versions.gc import gc
from flows.versions.verify import verify
from monitoring.journal import Journal
from monitoring.log.production_log import Log, open_log
from monitoring.review.queue import enqueue, waiting
from tasks.common.checkout import checkout
from tasks.common.errors import DamagedFile, EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.params import load_params
from tasks.common.tickets import make_ticket
from tests.support import drift_windows, versions_project
from tests.support.children import killed_at
from tests.support.versions_project import image, store, tree

WORDS = "four words that rhyme"
START, END, WINDOW = drift_windows.times(0)


def the_log(root: Path) -> Log:
    return open_log(root, load_params(root / "params.yaml"))


@pytest.fixture(scope="module")
def used(tmp_path_factory) -> Path:
    """Three versions, a tombstone, a log with a queue, labels and a window, answers that wait."""
    root = versions_project.copy(tmp_path_factory.mktemp("used") / "project")
    log, table = the_log(root), drift_windows.window_table(0, 20)
    ids = [sha256_bytes(image(1, row)) for row in range(20)]
    table = table.set_column(0, "id", pa.array(ids)).set_column(
        table.schema.get_field_index("image"), "image", pa.array([image(1, row) for row in range(20)], pa.binary())
    )
    log.append(table)
    assert enqueue(log, load_params(root / "params.yaml").review, START, END, f"window {WINDOW}")
    Journal(log.store).append(
        drift_windows.measures(0, table, drift_windows.reference_table()), drift_windows.decision(0)
    )
    journal.record(root, [Answer(ids[3], "dog", annotator="ann"), Answer(ids[4], "dog", annotator="bob")])
    store(root).tombstone("b-9", why="dark", by="ann")
    (root / ".evergreen/trigger").mkdir()
    (root / ".evergreen/trigger/wanted.json").write_text("{}")
    token = people.add(root, "Anna", "approver", "Ann")
    people.join(root, token, WORDS, WORDS)
    people.add(root, "Carl", "viewer", "Ann")
    make_ticket(root, "console")
    uploads.begin(root)
    assert Index(root).refresh()
    return root


@pytest.fixture
def project(used: Path, tmp_path: Path) -> Path:
    return versions_project.settled(shutil.copytree(used, tmp_path / "project", symlinks=True))


def clone(project: Path, to: str = "clone") -> Path:
    """A clone as another machine has it: without the folder that it was cloned from."""
    root = project.parent / to
    git(project.parent, "clone", "--quiet", str(project), str(root))
    git(root, "remote", "remove", "origin")
    git(root, "config", "user.name", "Ann")
    git(root, "config", "user.email", "ann@example.org")
    return root


def facts(root: Path) -> dict:
    log = the_log(root)
    return {
        "releases": [pointer.version for pointer in store(root).history()],
        "live": store(root).live(),
        "tombstones": store(root).tombstones(),
        "answers": log.window(datetime(2000, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, tzinfo=UTC))[0].to_pylist(),
        "waiting": waiting(log),
        "labels": journal.pending(root),
        "windows": Journal(log.store).recent(10),
        "tags": git(root, "tag", "--list"),
        "branch releases": git(root, "rev-parse", "releases"),
        "head": git(root, "rev-parse", "HEAD"),
        "people": people.read_people(root),
    }


def test_a_fresh_clone_goes_on_where_the_project_was(project: Path, monkeypatch: pytest.MonkeyPatch):
    other = clone(project)
    versions_project.add_batch(project, 4)  # after the clone was made
    run = CliRunner()
    monkeypatch.chdir(project)
    made = run.invoke(app, ["backup", str(project.parent), "--data"])
    assert made.exit_code == 0, made.output
    (archive,) = project.parent.glob("*.evergreen.tar")
    assert stat.S_IMODE(archive.stat().st_mode) == 0o600
    assert checkout(project).secret.encode() not in archive.read_bytes()
    before, data = facts(project), tree(project / "data")
    status = run.invoke(app, ["status"]).output
    shutil.rmtree(project)

    monkeypatch.chdir(other)
    restored = run.invoke(app, ["restore", str(archive)])
    assert restored.exit_code == 0, restored.output
    assert "every digest is right" in restored.output
    assert "main went forward to" in restored.output
    assert "not in the backup: the secret of the checkout" in restored.output
    assert facts(other) == before
    assert passphrase.matches(WORDS, people.read_people(other).active("Anna").passphrase), "people sign in there, too"
    assert not (other / ".evergreen/tickets.json").exists(), "a link of one checkout opens no other"
    assert not (other / ".evergreen/uploads").exists(), "what was not taken is sent again"
    assert not (other / ".evergreen/console").exists(), "the console makes its index again"
    assert stat.S_IMODE((other / ".evergreen/people.json").stat().st_mode) == 0o600
    here = lambda text: re.sub(r"\S*(project|clone)\S*", "", text)  # noqa: E731
    assert here(run.invoke(app, ["status"]).output) == here(status)
    connected = {line.part: line.ok for line in connect(other)}
    assert all(connected.values()), connected
    assert tree(other / "data") == data
    lines = verify(other, repair=True)
    assert all(line.ok for line in lines), [problem.text for line in lines for problem in line.problems]
    assert gc(other, grace_hours=0).places  # the ledger is the clone's own
    again = restore_backup(other, archive)
    assert any("0 file(s) placed" in line for line in again)
    versions_project.release(other, 4)
    assert [pointer.version for pointer in store(other).history()] == [*before["releases"], "v0.4.0"]


def test_state_that_differs_is_replaced_by_force_alone_and_set_aside(project: Path):
    archive, _ = backup(project, project.parent / "b.tar")
    other = clone(project)
    (other / ".evergreen").mkdir()
    file = other / ".evergreen/trigger/wanted.json"
    file.parent.mkdir()
    file.write_text('{"mine": 1}')
    before = tree(other / ".evergreen")
    with pytest.raises(EvergreenError, match=r"1 file\(s\) here differ .*trigger/wanted.json"):
        restore_backup(other, archive)
    assert {n: h for n, h in tree(other / ".evergreen").items() if not n.startswith("checkout")} == before
    restore_backup(other, archive, force=True)
    assert file.read_text() == "{}"
    (aside,) = (other / ".evergreen/replaced").rglob("wanted.json")
    assert aside.read_text() == '{"mine": 1}'


def test_what_was_erased_since_does_not_come_back(project: Path):
    archive, _ = backup(project, project.parent / "b.tar", data=True)
    name = sha256_bytes(image(1, 3))
    done = erase_images(project, [name], "asked", yes=True)
    (backups,) = (line for line in done.proof.lines if line.place == "backups")
    assert f"{archive} of" in backups.notes[0]
    other = clone(project)
    said = restore_backup(other, archive)
    assert any("images that were erased since" in line for line in said)
    assert name not in [row["id"] for row in facts(other)["answers"]]
    assert [answer.annotator for answer in journal.pending(other)] == ["bob"]
    for file in [f for f in other.rglob("*") if f.is_file() and ".git" not in f.parts]:
        content = file.read_bytes()
        assert name.encode() not in content, file
        assert image(1, 3) not in content, file
    assert all(line.ok for line in verify(other, repair=True))


def rewritten(archive: Path, change) -> Path:
    """A copy of an archive whose members (name -> (TarInfo, content)) `change` has changed."""
    with tarfile.open(archive) as tar:
        members = [(entry, tar.extractfile(entry).read()) for entry in tar]
    members = change(members)
    new = archive.with_name("changed.tar")
    with tarfile.open(new, "w") as tar:
        for entry, content in members:
            entry.size = len(content) if entry.isreg() else 0
            tar.addfile(entry, io.BytesIO(content) if entry.isreg() else None)
    return new


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def flipped(members):
    return [(e, c[:-1] + bytes([c[-1] ^ 1]) if e.name.endswith("journal.jsonl") else c) for e, c in members]


def newer(members):
    return [(e, json.dumps(json.loads(c) | {"version": 99}).encode() if e.name == MANIFEST else c) for e, c in members]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flipped, "journal.jsonl' of .* is damaged"),
        (lambda members: members[:-1], "is not a whole backup"),
        (lambda members: members[1:], "lacks 'git.bundle'"),
        (lambda members: [(entry("state/x"), b"1"), *members], "which its manifest does not list"),
        (lambda members: [members[0], *members], "which its manifest does not list, or twice"),
        (lambda members: [(entry("state/../../x"), b"1"), *members], "not a place of a project's state"),
        (lambda members: [(entry("/tmp/x"), b"1"), *members], "not a place of a project's state"),
        (lambda members: [(entry(".git/hooks/post-merge"), b"1"), *members], "not a place of a project's state"),
        (lambda members: [(entry("state/x", tarfile.SYMTYPE, "/etc/passwd"), b""), *members], "not a plain file"),
        (lambda members: [(entry("state/x", tarfile.LNKTYPE, "state/y"), b""), *members], "not a plain file"),
        (newer, "newer|99"),
    ],
)
def test_a_damaged_or_hostile_archive_is_refused_and_nothing_changes(project: Path, change, said: str):
    archive, _ = backup(project, project.parent / "b.tar")
    other = clone(project)
    before = tree(other)
    with pytest.raises((EvergreenError, DamagedFile), match=said):
        restore_backup(other, rewritten(archive, change))
    assert tree(other) == before


def test_a_torn_archive_is_refused(project: Path):
    archive, _ = backup(project, project.parent / "b.tar")
    other = clone(project)
    before = tree(other)
    for share in (0, 0.3, 0.9):
        (project.parent / "torn.tar").write_bytes(archive.read_bytes()[: int(share * archive.stat().st_size)])
        with pytest.raises(EvergreenError, match=r"cannot be read as a backup|is not a whole backup"):
            restore_backup(other, project.parent / "torn.tar")
    assert tree(other) == before


def test_a_backup_needs_a_new_place_and_no_half_erasure(project: Path):
    (project.parent / "b.tar").write_text("mine")
    with pytest.raises(EvergreenError, match="exists: name a new file"):
        backup(project, project.parent / "b.tar")
    with pytest.raises(EvergreenError, match="which the backup is of"):
        backup(project, project / ".evergreen/b.tar")
    assert killed_at("forget.committed", erase_images, project, [sha256_bytes(image(1, 3))], "asked", yes=True)
    with pytest.raises(EvergreenError, match="an erasure was killed"):
        backup(project, project.parent / "c.tar")


def test_a_restore_that_was_killed_is_repeated(project: Path):
    archive, _ = backup(project, project.parent / "b.tar")
    other = clone(project)
    assert killed_at("restore.placed:5", restore_backup, other, archive)
    assert store(other).live() is None  # the pointer is placed last
    said = restore_backup(other, archive)
    assert any(re.search(r"[1-9]\d* file\(s\) placed, 5 were here already", line) for line in said)
    assert facts(other) == facts(project)
