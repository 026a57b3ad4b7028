"""Real Prefect servers, killed while they start and while a run uses them; damaged databases and records.

Servers are counted afterwards: two over one SQLite database would be one too many.
"""

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import psutil
import pytest

from flows.runs import launch
from flows.server import database, process, processes, template
from flows.server.environment import environment
from tasks.common.sealed import sealed_path
from tests.support.checkout import ROOT
from tests.support.waiting import until

START = (
    "import sys; from pathlib import Path; from flows.server.process import ensure_server; ensure_server(Path.cwd())"
)
FLOW = """
import sys, time
from pathlib import Path
from prefect import flow
from flows.runs import steps

@flow(name="survives", persist_result=False)
def survives(folder):
    steps.simple_step("first", lambda: (folder / "started").touch())
    while not (folder / "server-is-dead").exists():
        time.sleep(0.1)
    steps.simple_step("second", lambda: steps._show(steps.create_link_artifact, key="a-page", link="https://x.org"))
    (folder / "result").write_text("the second step ended")
    return 7

print(survives(Path(sys.argv[1])))
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A project with a port of its own; its servers are stopped afterwards."""
    port = process.free_port(0)
    params = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(params.replace("prefect_port: 4200", f"prefect_port: {port}"))
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield tmp_path
    process.stop_server(tmp_path)
    assert processes.servers(tmp_path) == []


@pytest.mark.long
def test_a_start_that_was_killed_leaves_a_server_that_the_next_one_takes_over(project, capfd, caplog):
    """With a database of garbage in its place before; and a run that outlives the server's death."""
    home = project / ".evergreen/prefect"
    home.mkdir(parents=True)
    (home / "prefect.db").write_bytes(b"no database " * 500)
    (home / "prefect.db-wal").write_bytes(b"left of it")
    starter = subprocess.Popen([sys.executable, "-c", START], cwd=project)
    about = until(lambda: processes.recorded(project))
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    assert not about["ready"]
    assert process.running(project) is process.own_api(project) is None, "nobody sends the secret to it yet"
    assert "prefect.db is damaged (file is not a database): Prefect starts with a new one" in capfd.readouterr().err
    assert (home / "prefect.db.damaged").read_bytes().startswith(b"no database")

    api = process.ensure_server(project)
    assert processes.servers(project) == [about["pid"]], "one server, the one that was starting"
    assert process.running(project)["pid"] == about["pid"]
    assert api.post("/flow_runs/filter", {}) == []

    said = []
    env = environment(project) | api.environment()
    run = subprocess.Popen([sys.executable, "-c", FLOW, str(project)], env=env, stdout=subprocess.PIPE, text=True)
    until(lambda: (project / "started").exists(), 120)
    os.kill(about["pid"], signal.SIGKILL)
    until(lambda: processes.created(about["pid"]) is None)
    (project / "server-is-dead").touch()
    assert launch._wait(run, partial(process.revive_server, project, api, said.append)) == 0
    assert run.stdout.read().strip() == "7"
    assert said == ["the Prefect server had died: started it again, and the run goes on"]
    (flow_run,) = api.post("/flow_runs/filter", {})
    assert flow_run["state_type"] == "COMPLETED", "the same database, and the end was told to it"
    (server,) = processes.servers(project)
    assert server == process.running(project)["pid"] != about["pid"]

    (project / ".evergreen/server.json").write_text('{"pid": ')
    with caplog.at_level(logging.WARNING):
        assert process.stop_server(project) is True, "found by its command and folder"
    assert processes.servers(project) == []


@pytest.mark.long
def test_a_new_server_starts_from_the_database_that_an_earlier_one_kept(project, tmp_path, monkeypatch):
    """The first keeps its tables before it writes a row; the next copies them, and goes on as if it had migrated."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    process.ensure_server(project)
    process.stop_server(project)
    (kept,) = (tmp_path / "caches/evergreen").glob("prefect-*.db")
    with closing(sqlite3.connect(kept)) as tables:
        names = [name for (name,) in tables.execute("select name from sqlite_master where type = 'table'")]
        rows = {name: tables.execute(f'select count(*) from "{name}"').fetchone()[0] for name in names}
        assert rows.pop("alembic_version") == 1
        assert set(rows.values()) == {0}, "no key and nothing of a project is in what others copy"
        tables.execute("create table copied (a)")
        tables.commit()
    with sealed_path(kept) as temporary:
        temporary.write_bytes(kept.read_bytes())

    home = project / ".evergreen/prefect"
    (home / "prefect.db").unlink()
    (home / "prefect.db-wal").write_bytes(b"left of it")
    api = process.ensure_server(project)
    assert api.post("/flow_runs/filter", {}) == []
    with closing(sqlite3.connect(home / "prefect.db")) as found:
        assert found.execute("select count(*) from copied").fetchone() == (0,)


def test_a_damaged_kept_database_and_that_of_other_migrations_are_not_copied(tmp_path):
    migrations = tmp_path / "migrations"
    migrations.mkdir()
    (migrations / "1_first.py").touch()
    kept = template.kept_database("3.8.8", migrations)
    (migrations / "2_second.py").touch()
    assert template.kept_database("3.8.8", migrations) != kept
    kept, made = tmp_path / "caches/prefect.db", tmp_path / "made.db"
    with closing(sqlite3.connect(made)) as tables:
        tables.execute("create table runs (a)")
    assert not template.copy(kept, tmp_path / "new.db")
    template.keep(made, kept)
    assert template.copy(kept, tmp_path / "new.db")
    assert database.damage(tmp_path / "new.db") is None
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    assert not template.copy(kept, tmp_path / "other.db")
    assert not (tmp_path / "other.db").exists()
    assert not template.copy(tmp_path / ("x" * 300), tmp_path / "other.db"), "what cannot be opened is not there"


def test_a_process_is_known_whatever_the_clock_says(monkeypatch):
    here = processes.created(os.getpid())
    monkeypatch.setattr(psutil, "boot_time", lambda: time.time() + 3600)  # what psutil adds after the clock was set
    monkeypatch.setattr(psutil._pslinux, "boot_time", lambda: time.time() + 3600)
    assert processes.created(os.getpid()) == here
    child = subprocess.Popen(["sleep", "60"])
    other = processes.created(child.pid)
    assert other != here
    about = {"pid": child.pid, "created": other}
    assert 0 <= processes.age(about) < 60
    child.kill()
    until(lambda: processes.created(child.pid) is None, 10, "a zombie is dead")
    child.wait()
    assert processes.created(child.pid) is None


@pytest.mark.parametrize(
    ("name", "content"), [("garbage", b"x" * 5000), ("cut", b"SQLite format 3\0"), ("zeros", b"\0" * 8192)]
)
def test_a_damaged_database_is_told(tmp_path, name, content):
    file = tmp_path / database.NAME
    file.write_bytes(content)
    assert database.damage(file), name


def test_a_flipped_page_is_told_and_a_whole_database_is_left_alone(tmp_path):
    file = tmp_path / database.NAME
    assert database.damage(file) is None
    file.touch()
    assert database.damage(file) is None, "SQLite makes it"
    with closing(sqlite3.connect(file)) as made:
        made.execute("create table runs (id integer primary key, name text)")
        made.executemany("insert into runs (name) values (?)", [("x" * 100,) for _ in range(500)])
        made.commit()
    assert database.damage(file) is None
    database.set_damaged_aside(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:8192] + b"\xff" * 4096 + whole[12288:])
    database.set_damaged_aside(tmp_path)
    assert not file.exists()
    file.mkdir()
    (file / "inside").touch()
    database.set_damaged_aside(tmp_path)
    assert not file.exists()


def test_a_run_without_its_server_ends_with_a_line_that_says_what_to_do():
    import httpx

    from flows.runs.retrain import _why

    said = _why(httpx.ConnectError("All connection attempts failed"))
    assert "the Prefect server does not answer (ConnectError: All connection attempts failed)" in said
    assert "`evergreen retrain` starts a server and goes on" in said
    assert _why(ValueError("a column is missing")) == "a column is missing"
