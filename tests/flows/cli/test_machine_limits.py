"""Real limits of the machine, each named: memory, open files, a full disk, dead workers. Nothing is half done."""

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.common.files import atomic_path
from tasks.common.machine_limits import machine_error
from tests.support.bad_input import environment, evergreen, images, make
from tests.support.checkout import ROOT, git


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("limits") / "made")


@pytest.fixture
def project(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "project", symlinks=True)


def limited(name: str, value: int):
    return lambda: resource.setrlimit(getattr(resource, name), (value, value))


@pytest.mark.parametrize("kilobytes", [100_000, 300_000, 500_000])
def test_too_little_memory_is_named_whatever_library_meets_the_limit(project, tmp_path, kilobytes):
    source = images(tmp_path / "more", {"cat": 12}, seed=3)
    before = git(project, "rev-parse", "HEAD")
    done = evergreen(project, "ingest", str(source), preexec_fn=limited("RLIMIT_AS", kilobytes << 10))
    assert "Traceback" not in done.stderr, done.stderr
    if kilobytes == 100_000:
        assert done.returncode == 1
    if done.returncode:
        assert git(project, "rev-parse", "HEAD") == before
        named = "out of memory (out_of_memory): " in done.stderr or "OpenBLAS error" in done.stderr
        assert named or done.returncode < 0, "named, unless a library crashes for want of memory"
    assert git(project, "status", "--porcelain") == "", "whole, or as before"


def test_too_few_open_files_are_named_with_the_limit_and_64_are_enough(project, tmp_path):
    source = images(tmp_path / "more", {"cat": 12}, seed=3)
    done = evergreen(project, "ingest", str(source), preexec_fn=limited("RLIMIT_NOFILE", 8))
    assert done.returncode == 1
    assert "too many open files: this process may use 8 files; `ulimit -n 4096` raises it" in done.stderr
    assert evergreen(project, "ingest", str(source), preexec_fn=limited("RLIMIT_NOFILE", 64)).returncode == 0


def test_a_full_disk_is_named_with_its_free_space_and_more_room_is_enough(project, tmp_path):
    """The project lies on a real disk of 3 MB, in a namespace of its own; another one is the temporary folder."""
    source = images(tmp_path / "more", {"cat": 40}, seed=3)
    disk, evergreen_ = tmp_path / "disk", f"{sys.executable} -P -m flows.cli"
    disk.mkdir()
    (tmp_path / "tmp").mkdir()
    script = f"""
    mount -t tmpfs -o size=3m none {disk} && mount -t tmpfs -o size=16k none {tmp_path}/tmp || exit 9
    cp -a {project} {disk}/p && cd {disk}/p || exit 8
    export TMPDIR={tmp_path}/tmp
    head -c 16000 /dev/zero > {tmp_path}/tmp/filled
    head -c 9000000 /dev/zero > {disk}/filled 2> /dev/null
    before=$(git rev-parse HEAD)
    {evergreen_} ingest {source} && exit 7
    test "$before" = "$(git rev-parse HEAD)" && test -z "$(git status --porcelain)" || exit 6
    {evergreen_} status > /dev/null || exit 5
    rm {disk}/filled
    {evergreen_} ingest {source} || exit 4
    """
    command = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"]), "sh", "-c", script]
    done = subprocess.run(command, env=environment(project), capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr, done.stderr
    assert "disk full (disk_full): " in done.stderr
    assert " MB are free at " in done.stderr or "MB are free. Nothing" in done.stderr
    assert "took 40 new images" in done.stdout


def test_a_killed_worker_and_errors_that_libraries_wrap_are_told():
    from loky import ProcessPoolExecutor

    with pytest.raises(Exception, match="terminated") as killed, ProcessPoolExecutor(1) as pool:
        pool.submit(os._exit, 9).result()
    said = machine_error(killed.value)
    assert "a worker process was killed" in said
    assert "MB are available on this machine" in said
    wrapped = RuntimeError("could not save")
    wrapped.__cause__ = OSError(errno.EROFS, os.strerror(errno.EROFS), "/data/x.json")
    assert machine_error(wrapped).startswith("/data/x.json: Read-only file system: work in a checkout on a writable")
    assert "too many open files" in machine_error(RuntimeError("worker: Too many open files"))
    assert "out of memory" in machine_error(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert "disk full" in machine_error(RuntimeError("(sqlite3.OperationalError) database or disk is full"))
    assert "you are user" in machine_error(PermissionError(errno.EACCES, "Permission denied", str(ROOT)))
    assert "in the place of a folder" in machine_error(FileExistsError(errno.EEXIST, "File exists", str(ROOT)))


def test_what_is_a_bug_stays_a_bug():
    for error in (ValueError("a bug"), KeyError("disk"), FileNotFoundError(errno.ENOENT, "No such file", "x")):
        assert machine_error(error) is None


def test_a_write_that_fails_says_where(tmp_path):
    with pytest.raises(OSError, match=r"state\.json") as error, atomic_path(tmp_path / "state.json"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert f"disk full (disk_full): {tmp_path / 'state.json'}: No space left" in machine_error(error.value)
    assert list(tmp_path.iterdir()) == []
