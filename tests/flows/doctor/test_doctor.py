"""`evergreen doctor` finds each thing that is broken, says how to repair it, and calls a whole project whole."""

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from flows.doctor import cluster, environment, machine, places, project, servers, state
from flows.doctor.examine import checks, examine
from flows.doctor.finding import Finding
from flows.server import database
from tasks.common.files import write_json
from tasks.common.params import ScaleParams, load_params
from tasks.common.private import close_to_others
from tests.support.bad_input import evergreen, make
from tests.support.checkout import ROOT, git


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = make(tmp_path_factory.mktemp("doctor") / "made")
    for name in ("requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    git(root, "add", "-A")
    git(root, "commit", "-qm", "the lock")
    return root


@pytest.fixture
def root(made, tmp_path) -> Path:
    copied = shutil.copytree(made, tmp_path / "project", symlinks=True)
    close_to_others(copied, copied / ".evergreen")
    return copied


def only(found: Finding | list[Finding], name: str, how: str, *words: str) -> Finding:
    """The one finding of `name`, which is `how` and says `words`; a cure is named unless all is well."""
    (one,) = [one for one in (found if isinstance(found, list) else [found]) if one.check == name]
    assert one.state == how, one
    assert all(word in one.line() for word in words), one
    assert bool(one.cure) is (how != "ok"), one
    return one


def params(root: Path):
    return load_params(root / "params.yaml")


def test_a_whole_project_has_no_problem_and_every_check_says_a_line(root):
    done = evergreen(root, "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "problem " not in done.stdout.replace("0 problems", "")
    said = {line.split()[1].rstrip(":") for line in done.stdout.splitlines()[:-1]}
    assert {"python", "packages", "git", "settings", *(name.split()[0] for name in checks(root, params(root)))} <= said
    assert git(root, "status", "--porcelain") == ""


def test_a_broken_project_gives_exit_code_1_and_json_for_programs(root):
    (root / ".evergreen/checkout.json").write_text("{")
    done = evergreen(root, "doctor", "--json")
    assert done.returncode == 1
    assert done.stderr == ""
    found = {one["check"]: one for one in json.loads(done.stdout)}
    assert found["state"]["state"] == "problem"
    assert "checkout.json" in found["state"]["text"]
    assert "makes them again" in found["state"]["cure"]


def test_settings_that_cannot_be_read_are_one_problem_and_the_other_checks_run(root):
    (root / "params.yaml").write_text("data: [\n")
    found = list(examine(root))
    only(found, "settings", "problem", "params.yaml", "left out")
    only(found, "python", "ok")
    only(found, "permissions", "ok")
    assert not [one for one in found if one.check == "store"]


def test_packages(root):
    only(environment.packages(root), "packages", "ok", "as locked")
    lock = (root / "requirements.lock").read_text()
    (root / "requirements.lock").write_text(lock.replace("\nnumpy==", "\nnumpy==0."))
    only(environment.packages(root), "packages", "warning", "numpy", "locked: 0.")
    about = (root / "pyproject.toml").read_text()
    (root / "pyproject.toml").write_text(about.replace('"boto3', '"no-such-package", "boto3'))
    only(environment.packages(root), "packages", "problem", "not installed: no-such-package")
    (root / "requirements.lock").unlink()
    only(environment.packages(root), "packages", "warning")
    assert [one.state for one in environment.extras()] == ["ok"] * len(environment.EXTRAS)


def test_python_and_git(monkeypatch):
    only(environment.python(), "python", "ok")
    monkeypatch.setattr(environment, "PYTHON", ((3, 99), (3, 100)))
    only(environment.python(), "python", "problem", "expected 3.99")
    only(environment.git_program(), "git", "ok")
    monkeypatch.setattr(environment, "GIT", (99, 0))
    only(environment.git_program(), "git", "problem", "expected 99.0")
    monkeypatch.setenv("PATH", "/nowhere")
    only(environment.git_program(), "git", "problem", "not in PATH")


def test_repository(root):
    only(project.repository(root), "repository", "ok")
    lock = root / ".git/index.lock"
    lock.touch()
    only(project.repository(root), "repository", "ok")
    os.utime(lock, (1, 1))
    only(project.repository(root), "repository", "problem", "index.lock", "rm ")
    lock.unlink()
    (root / "data.dvc").write_text((root / "data.dvc").read_text() + "\n")
    only(project.repository(root), "repository", "warning", "data.dvc")
    shutil.rmtree(root / ".git")
    only(list(examine(root)), "repository", "problem", "not in a git repository")


def test_dvc_and_remote(root):
    only(project.dvc(root), "dvc", "ok")
    only(places.remote(root), "remote", "ok", "answers")
    config = (root / ".dvc/config").read_text()
    (root / ".dvc/config").write_text(config.replace("remote = ", "remote = no-"))
    only(list(examine(root)), "dvc", "problem", "core.remote names")
    (root / ".dvc/config").write_text("[core\n")
    assert only(list(examine(root)), "dvc", "problem", "DVC cannot read").state == "problem"


def test_formats(root):
    only(project.formats(root), "formats", "ok", "multiclass, 1 batch of images")
    write_json(root / "data/dataset.json", {"schema": 99, "task": "multiclass"})
    only(list(examine(root)), "formats", "problem", "newer Evergreen")
    shutil.rmtree(root / "data")
    only(project.formats(root), "formats", "warning", "dvc pull")
    write_json(root / ".evergreen/schema.json", {"schema": 99})
    only(list(examine(root)), "formats", "problem", "newer Evergreen")


def test_floors(root):
    """A floor about something that no image has is found without a run."""
    only(project.floors(root, params(root)), "floors", "ok", "none are set")
    text = (root / "params.yaml").read_text()

    def found(*floors: str):
        listed = "".join(f"    - {{{floor}}}\n" for floor in floors)
        (root / "params.yaml").write_text(text.replace("  floors: []\n", f"  floors:\n{listed}"))
        return project.floors(root, params(root))

    said = found("class: nothing, recall: 0.5", "accuracy: 0.3")
    only(said, "floors", "problem", "gate.floors.0: there is no class 'nothing'", "correct gate.floors")
    only(found("accuracy: 0.3"), "floors", "ok", "1, all about classes and images that exist")


def test_store_and_ledgers(root):
    found = places.store(root, params(root))
    only(found, "store", "ok", "nothing is live yet")
    only(found, "store writes", "ok", "refuses a second writer")
    store = root / ".evergreen/releases"
    assert not list(store.rglob("doctor/*")), "nothing is left"
    ledger = store / "ledgers/0123456789abcdef" / f"{'0' * 64}.json"
    ledger.parent.mkdir(parents=True)
    ledger.write_text("{}")
    only(places.store(root, params(root)), "ledgers", "problem", "cannot be read", "gc")
    ledger.unlink()
    (store / "champion.json").write_text("{}")
    only(places.store(root, params(root)), "store", "problem", "champion.json", "evergreen verify")


def test_a_place_that_cannot_be_written_or_reached(root, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    text = (root / "params.yaml").read_text()
    (root / "file").touch()
    (root / "params.yaml").write_text(text.replace("url: .evergreen/releases", "url: file/releases"))
    only(list(examine(root)), "store", "problem", "file/releases")
    settings = yaml.safe_load(text)
    settings["store"] |= {"url": "s3://nowhere/x", "endpoint_url": "http://127.0.0.1:9"}
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    found = list(examine(root))
    only(found, "store", "problem", "127.0.0.1:9")
    only(found, "clock", "problem", "127.0.0.1:9")


def test_disks_memory_and_open_files(root):
    only(machine.disk(root, 1e8, True), "disk", "problem", "0.1 GB are free", "evergreen gc")
    only(machine.disk(root, 1e9, True), "disk", "warning")
    only(machine.disk(root, 1e11, True), "disk", "ok")
    only(machine.disk(root, 1e11, False), "disk", "problem", "not writable")
    assert {one.check for one in machine.disks(root, params(root))} == {"disk"}
    assert machine.memory().check == "memory"
    script = "from flows.doctor.machine import open_files; print(open_files().line())"
    done = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100)),
    )  # fmt: skip
    assert "a process may open 100 files. To repair it: `ulimit -n 100`" in done.stdout
    assert machine.open_files().state in ("ok", "warning")


def test_the_clock():
    now = datetime(2026, 11, 27, 12, tzinfo=UTC)
    only(machine.judge_clock(now, [now - timedelta(days=1)], None), "clock", "ok")
    only(machine.judge_clock(now, [now + timedelta(hours=1)], None), "clock", "problem", "3600 s before what was")
    only(machine.judge_clock(datetime(1970, 1, 2, tzinfo=UTC), [], None), "clock", "problem", "1970-01-02")
    only(machine.judge_clock(now, [], now + timedelta(seconds=120)), "clock", "warning", "120 s off")
    only(machine.judge_clock(now, [], now - timedelta(seconds=900)), "clock", "problem", "900 s off")
    only(machine.judge_clock(now, [], now), "clock", "ok")


def test_the_clock_is_compared_with_what_was_recorded_here(root):
    from monitoring.seen import Seen, note_seen

    only(machine.clock(root, params(root)), "clock", "ok")
    note_seen(root, Seen(at=datetime.now(UTC) + timedelta(hours=2), outcome="waiting", sentence="in the future"))
    only(machine.clock(root, params(root)), "clock", "problem", "before what was recorded")


def test_prefect_its_database_and_ports(root, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)  # of a server that this process may have
    only(servers.prefect(root), "prefect", "ok", "not running")
    home = root / ".evergreen/prefect"
    home.mkdir()
    only(servers.prefect_database(root), "prefect database", "ok", "none yet")
    (home / database.NAME).write_bytes(b"garbage " * 100)
    only(servers.prefect_database(root), "prefect database", "problem", "not a database")
    assert (home / database.NAME).exists(), "only looked at"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = (root / "params.yaml").read_text().replace("prefect_port: 4200", f"prefect_port: {port}")
        (root / "params.yaml").write_text(text)
        only(servers.ports(root, params(root)), "ports", "warning", f"{port} (prefect)")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    only(servers.prefect(root), "prefect", "ok", "PREFECT_API_URL")


def test_services_and_monitor(root):
    only(servers.services(root), "services", "ok", "not started")
    only(state.monitor(root), "monitor", "ok")
    services = {"prefect": {"pid": None, "url": None}}
    about = {"pid": 7, "created": "1", "since": datetime.now(UTC).isoformat(), "services": services}
    write_json(root / ".evergreen/services.json", about)
    only(servers.services(root), "services", "problem", "died", "evergreen up")
    only(state.monitor(root), "monitor", "problem", "no run has ever succeeded")


def test_permissions(root):
    only(state.permissions(root), "permissions", "ok")
    (root / "data").chmod(0o755)
    only(state.permissions(root), "permissions", "problem", f"`chmod go-rwx {root / 'data'}`")
    (root / "data").chmod(0o2770)
    only(state.permissions(root), "permissions", "ok")


def test_damaged_state(root):
    only(state.damaged_files(root), "state", "ok")
    (root / ".evergreen/alarms.json").write_text("")
    (root / ".evergreen/server.json").mkdir()
    only(state.damaged_files(root), "state", "problem", "alarms.json", "server.json")
    (root / ".evergreen/alarms.json").rename(root / ".evergreen/alarms.json.damaged")
    (root / ".evergreen/server.json").rmdir()
    only(state.damaged_files(root), "state", "warning", "alarms.json.damaged")


def test_the_journal_of_labels(root):
    only(state.label_journal(root), "labels", "ok")
    assert evergreen(root, "doctor").returncode == 0
    file = root / ".evergreen/labels/journal.jsonl"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b'{"torn": ')
    only(state.label_journal(root), "labels", "ok", "no answer waits")
    file.write_bytes(b"\xff\xfe not an answer\n\n")
    only(state.label_journal(root), "labels", "problem", "1 line of the journal")


def test_what_killed_commands_left(root):
    only(state.unfinished(root), "unfinished", "ok")
    (root / ".evergreen/died").mkdir()
    (root / ".evergreen/died/r-1").touch()
    write_json(root / ".evergreen/forget/1.json", {"plan": {"ids": []}})
    found = state.unfinished(root)
    assert [one.state for one in found] == ["problem", "warning"]
    assert "`evergreen retrain` completes it first" in found[0].cure
    assert "r-1" in found[1].text


def test_a_check_that_fails_is_a_problem_of_its_own(root, monkeypatch):
    monkeypatch.setattr(state, "unfinished", lambda root: {}["missing"])
    only(list(examine(root)), "unfinished", "problem", "the check failed: KeyError", "report it")


def test_the_engine_is_said_and_a_cluster_that_does_not_answer_is_a_problem(root):
    found = params(root)
    only(cluster.scale(root, found), "scale", "ok", "engine local")
    away = found.model_copy(update={"scale": ScaleParams(engine="ray", address="127.0.0.1:9")})
    only(cluster.scale(root, away), "scale", "problem", "127.0.0.1:9", "cannot be reached")
