"""What taught a run's mistakes: from the command to the pages, the queue and `evergreen why`."""

from pathlib import Path

import pytest

from flows.console.index.index import index_of
from flows.labels.issues_queue import find_issues
from flows.labels.mistakes import found as kept
from flows.labels.mistakes.of_run import ask_about, look_for_mistakes
from flows.labels.pick_data import MISTAKE
from flows.labels.why import in_mistakes
from tasks.common.params import load_params
from tests.support import mistaken_project
from tests.support.console import job_ended, serving
from tests.support.mistaken_project import HOSTILE, RUN

PAGE = f"/releases/{RUN}/mistakes"


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return mistaken_project.with_run(tmp_path_factory.mktemp("mistakes"))


@pytest.fixture(scope="module")
def site(root):
    index_of(root).refresh()
    with serving(root) as running:
        yield running


def test_a_person_looks_for_the_causes_and_asks_about_the_labels(root, site, visit):
    empty = site.get(PAGE)
    assert empty[0] == 200
    assert "Look for the causes" in empty[2]
    assert f'href="{PAGE}"' in site.get(f"/releases/{RUN}")[2]
    assert "Nothing is suggested" in _toast(site, site.post(f"{PAGE}/ask", {"back": PAGE}, page=PAGE))
    status, _, _ = site.post(PAGE, {"back": PAGE}, page=PAGE)
    assert status == 303
    job = job_ended(root, f"mistakes {RUN}")
    assert job.code == 0
    found = kept.read(root, RUN)
    text = site.get(PAGE)[2]
    assert found.advice().split(":")[0] in text
    for fix in found.fixes:
        assert f'href="/images/{fix.id}"' in text
    assert HOSTILE not in text
    assert len(text) < 100_000
    csv = site.get(f"{PAGE}?format=csv")[2]
    assert csv.count("taught it") == sum(len(one.taught) for one in found.mistakes)
    assert site.get(f"{PAGE}?format=csv&table=fixes")[2].count("\n") == 1 + len(found.fixes)

    assert "9 images wait" in _toast(site, site.post(f"{PAGE}/ask", {"back": PAGE}, page=PAGE))
    params = load_params(root / "params.yaml")
    asked = [one for one in find_issues(root, params) if one.why == MISTAKE]
    assert {one.id: one.prediction for one in asked} == {fix.id: fix.to for fix in found.fixes}
    assert all(f"run {RUN}" in one.detail for one in asked)
    assert ask_about(root, found) == 0, "nobody is asked twice"
    assert kept.read(root, RUN) == found, "asking changes no label"

    for path in (PAGE, f"/images/{found.mistakes[0].id}", f"/images/{found.mistakes[0].id}/taught"):
        for width, dark in ((1280, False), (390, True)):
            shown = visit(site.url + path, user=site.user, width=width, dark=dark)
            assert shown.axe_violations == []
            assert not shown.scrolls_sideways
    one = next(one for one in found.mistakes if one.taught)
    shown = visit(site.url + f"/images/{one.id}", user=site.user)
    shown.page.wait_for_selector("#taught-part .tile")
    assert shown.page.locator(f'#taught-part a[href="/images/{one.taught[0].id}"]').count() >= 1
    pupil = site.get(f"/images/{found.fixes[0].id}/taught")[2]
    assert "seems right" in pupil
    assert PAGE in pupil


def test_the_command_says_what_the_page_says(root, capsys):
    found = look_for_mistakes(root, None, 3)
    assert len(found.fixes) == 3
    assert found.run == RUN
    mistake = next(one for one in found.mistakes if one.taught)
    lines = in_mistakes(root, mistake.id)
    assert mistake.taught[0].id[:12] in lines[0]
    assert any("seems to be Trouser" in line for line in in_mistakes(root, found.fixes[0].id))


def _toast(site, answer) -> str:
    status, headers, _ = answer
    assert status == 303, answer
    return site.get(headers["Location"], Cookie=headers["Set-Cookie"].split(";")[0])[2]
