"""Jobs of the console: real commands in processes of their own."""

import os
import signal

import pytest

from flows.console.jobs.store import log_end, newest_job, read_job, running_jobs, said, start_job
from tests.support import released_project
from tests.support.console import serving
from tests.support.waiting import until


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return released_project.copy(tmp_path_factory.mktemp("jobs"))


def run(root, *arguments, slot="a slot"):
    job = start_job(root, arguments, slot=slot, title="<b>A title</b>", by="Bob", back="/runs")
    until(lambda: not read_job(root, job.id).runs)
    return read_job(root, job.id)


def test_a_job_ends_with_what_its_command_said(root):
    done = run(root, "releases")
    assert (done.code, done.failed, done.fresh, done.by) == (0, False, True, "Bob"), log_end(root, done.id)
    assert "v0.3.0" in log_end(root, done.id)
    failed = run(root, "rollback", "v9", "--why", "x")
    assert failed.failed
    assert "no version 'v9' was ever live" in failed.result
    assert newest_job(root, "a slot").id == failed.id
    assert running_jobs(root) == []
    assert read_job(root, failed.id) is read_job(root, failed.id), "a job that has ended is parsed once"
    with serving(root) as site:
        status, _, text = site.get(f"/jobs/{failed.id}")
    assert status == 200
    assert "&lt;b&gt;A title" in text
    assert "was ever live" in text


def test_the_person_is_named_in_what_a_job_records(root):
    done = run(root, "rollback", "v0.2.0", "--why", "worse", slot="roll back")
    assert done.code == 0, done.said
    assert released_project.store(root).live().by == "Bob"


def test_a_slot_has_one_job_and_a_killed_one_is_known_as_such(root):
    first = start_job(root, ["verify"], slot="verify", title="Verify", by="Bob", back="/")
    again = start_job(root, ["verify"], slot="verify", title="Verify", by="Ann", back="/")
    assert again.id == first.id
    os.killpg(first.pid, signal.SIGKILL)
    until(lambda: not read_job(root, first.id).runs)
    assert "interrupted" in read_job(root, first.id).result
    assert read_job(root, "../x") is None


def test_what_a_job_said_is_short_and_on_one_line():
    assert said("a\n\nError: no\n  more\n  and more\n") == "Error: no more and more"
    assert len(said("x" * 5000)) <= 600
