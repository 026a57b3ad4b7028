"""Commands given nonsense: each names what was wrong and what to do, ends with 1 (2 for its usage), changes nothing.
And runs that cannot go on: a class too few, a busy port, Ctrl-C."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.publishing.outcomes import CANCELLED
from flows.runs.cancel import cancel
from flows.server.process import own_api
from tasks.common.errors import BatchRefused, TableRefused
from tasks.stages.validate.rules import class_support
from tests.support import bad_input, checkout_project, released_project
from tests.support.bad_input import environment, evergreen, hears_ctrl_c, images, says, state

NONE_YET = "nothing has been released yet: `evergreen retrain` makes the first version"


def test_outside_of_a_project_every_command_says_where_it_must_run(tmp_path):
    commands = ["ingest .", "retrain", "status", "rollback", "verify", "score .", "monitor"]
    for command in (words.split() for words in commands):
        says(evergreen(tmp_path, *command), 1, f"no Evergreen project at or above {tmp_path}", "`evergreen init`")
    assert list(tmp_path.iterdir()) == []


def test_a_thousand_reasons_are_told_in_one_short_message():
    reasons = [f"class {number} has 0 images in the split test, at least 1 expected" for number in range(1000)]
    assert len(str(TableRefused(reasons))) < 1000
    assert str(BatchRefused("b-1", reasons)).endswith("and 990 more")
    counts = {"train": {f"class {number}": 1 for number in range(1000)}}
    (few,) = class_support(counts, [], {}, 2)
    assert "at least 2 expected" in few.detail
    assert few.detail.endswith("and 988 more")


def test_before_any_release(tmp_path):
    project = bad_input.make(tmp_path / "project")
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.onnx").write_text("hello")
    (tmp_path / "ids.csv").write_text("id,label\nzzz,cat\n")
    before = state(project)
    for code, command, *words in (
        (0, ["releases"], NONE_YET),
        (1, ["diff"], NONE_YET),
        (1, ["rollback"], NONE_YET),
        (1, ["approve", "nonsense"], "no run 'nonsense' is recorded; held or rejected: none"),
        (1, ["promote", "nonsense"], "--override --why"),
        (1, ["score", str(tmp_path / "empty")], "no model is live yet"),
        (1, ["score", ""], "the source to score is an empty name"),
        (1, ["label", str(tmp_path / "empty")], "empty is not a file: expected labels"),
        (1, ["queue", "--html", str(tmp_path / "empty")], "move the folder away that is in the place of a file"),
        (1, ["forget", "zzz", "--why", "x"], "no image with id, key, path, source or group 'zzz'"),
        (1, ["tombstone", "b-1", "--why", "x"], "no batch 'b-1'", "known: b-"),
        (1, ["adopt", str(tmp_path / "model.onnx"), "--classes", "a", "--size", "32"], "fewer than two names"),
        (1, ["adopt", str(tmp_path / "model.onnx"), "--classes", "a,b", "--size", "32"], "model.onnx"),
        (2, ["ingest", "-rf"], "No such option"),
        (2, ["frobnicate"], "No such command 'frobnicate'"),
    ):
        says(evergreen(project, *command), code, *words)
    says(
        evergreen(project, "label", str(tmp_path / "ids.csv")),
        1,
        "0 labels taken",
        "'zzz' is not known as an id, the start of one",
    )
    assert state(project) == before


@pytest.mark.long
def test_versions_and_runs_that_do_not_exist(tmp_path):
    project = released_project.copy(tmp_path)
    before = state(project)
    for command, *words in (
        (["rollback", "v9.9.9"], "v9.9.9", "v0.1.0"),
        (["rollback", "../../etc/passwd"], "../../etc/passwd", "v0.1.0"),
        (["diff", "v9.9.9", "v0.1.0"], "v9.9.9", "v0.1.0"),
        (["diff", "v0.1.0", "nonsense"], "nonsense", "v0.1.0"),
        (["verify", "v9.9.9"], "there is no version 'v9.9.9'", "`evergreen verify` lists"),
        (["approve", "../runs"], "../runs"),
        (["gc", "--keep", "0"], "keep"),
        (["forget", "", "--why", "x"], "no image with id, key, path, source or group ''"),
    ):
        says(evergreen(project, *command), 1, *words)
    assert state(project) == before
    says(evergreen(project, "rollback", "v0.2.0"), 0, "v0.2.0 is live")


# --- runs


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project with the real pipeline, made without `init` so that uncommitted code is tested too."""
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        changes = {"validate": {"min_rows": 10}, "serve": {"prefect_port": port}}
        root = checkout_project.make(tmp_path_factory.mktemp("run") / "project", changes)
        yield root, port
    evergreen(root, "down")


@pytest.mark.long
def test_one_class_ctrl_c_a_single_image_and_a_busy_port(project):
    root, busy = project
    images(root.parent / "one", {"cat": 40})
    says(evergreen(root, "ingest", str(root.parent / "one")), 0, "took 40 new images of 1 class")
    before = state(root)

    said, code = _interrupted(root, lambda pid, run: os.killpg(pid, signal.SIGINT))
    assert code == 130, said
    assert "Traceback" not in said, said
    assert "interrupted: " in said
    assert state(root) == before
    said, code = _interrupted(root, lambda pid, run: cancel(root, run, by="Ann", why="the wrong images"))
    assert code == CANCELLED, said
    assert "Traceback" not in said, said
    assert "cancelled by Ann: the wrong images" in said
    shown = evergreen(root, "runs", "--json")
    says(shown, 0, "cancelled by Ann")
    newest, before_it = json.loads(shown.stdout)[:2]
    assert (newest["words"], newest["sentence"]) == ("cancelled", "cancelled by Ann: the wrong images")
    assert before_it["words"] == "killed"  # by Ctrl-C
    assert (newest["steps"][0]["name"], newest["steps"][0]["outcome"]) == ("data", "here")
    (run,) = own_api(root).post("/flow_runs/filter", {"flow_runs": {"name": {"any_": [newest["id"]]}}})
    assert (run["state_type"], run["id"]) == ("CANCELLED", newest["flow_run"])
    assert state(root) == before
    server = (root / ".evergreen/server.json").read_text()
    assert f":{busy}/" not in server, "somebody else's port"

    done = evergreen(root, "retrain")
    says(done, 3, "refused", "1 classes ['cat'], at least 2 expected")
    assert state(root) == before

    images(root.parent / "two", {"dog": 40, "bird": 1}, seed=2)
    says(evergreen(root, "ingest", str(root.parent / "two")), 0, "took 41 new images of 2 classes")
    images(root.parent / "thousand", {f"class {number}": 1 for number in range(1000)}, seed=5)
    says(evergreen(root, "ingest", str(root.parent / "thousand")), 0, "took 1000 new images of 1000 classes")
    before = state(root)
    done = evergreen(root, "retrain")
    says(done, 3, "refused", "1,001 of 1,081 labelled rows have labels too rare to be classes")
    assert len(done.stdout) < 10_000
    assert state(root) == before


def _interrupted(root: Path, interrupt: Callable[[int, str], object]) -> tuple[str, int]:
    """(what `evergreen retrain` says, its exit code) when it is interrupted as soon as its first stage has ended.

    interrupt: takes the process group of the command and the run's id.
    """
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "flows.cli", "retrain"],
        cwd=root,
        env=environment(root),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hears_ctrl_c,
        start_new_session=True,
    )
    said, run = "", ""
    for line in process.stdout:
        said += line
        if line.startswith("run ") and ": started by hand" in line:
            run = line.removeprefix("run ").partition(":")[0]
        if line.startswith("  data"):
            interrupt(process.pid, run)
            break
    rest, _ = process.communicate(timeout=120)
    return said + rest, process.returncode
