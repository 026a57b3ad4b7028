"""The hard set in the browser: its page, plans before changes, changes as jobs, and who may make them."""

import csv
import io
from datetime import UTC, datetime
from urllib.parse import urlencode

import pytest

from flows.console.hard.view import hard_view, looks_of
from flows.console.index.index import index_of
from flows.console.now.cards import waiting_cards
from flows.console.now.counts import LabelCounts
from flows.console.people import store
from flows.hard_set.content import read_hard_set
from flows.hard_set.looks import set_looks
from flows.publishing.history import open_project
from tasks.dataset.hard_set import membership, never_again
from tasks.releases.looks import Look, SetLook, record_look
from tests.support import indexed_project
from tests.support.console import job_ended, serving

WHY = '<img src=x onerror="alert(1)"> a scratch'


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return indexed_project.make(tmp_path_factory.mktemp("hard"))


@pytest.fixture(scope="module")
def site(root):
    index_of(root).refresh()
    with serving(root) as found:
        yield found


def ids(root, split, most=3):
    return [row.id for row in index_of(root).page({"split": [split]}, most=most)]


def changed(root, site, **fields):
    """Send a change and wait for its job; returns what it printed."""
    status, headers, _ = site.post("/hard-set/change", {"back": "/hard-set", **fields}, page="/hard-set")
    assert (status, headers["location"]) == (303, "/hard-set")
    job = job_ended(root, "hard-set")
    assert job.code == 0, job.said
    index_of(root).refresh()
    return job.said


@pytest.mark.long
def test_chosen_images_go_in_are_marked_and_come_out_by_the_browser(root, site, visit):
    train, test = ids(root, "train"), ids(root, "test", 1)
    shown = visit(f"{site.url}/images?split=train", user=site.user)
    for image in train[:2]:
        shown.page.locator(f'input.pick[value="{image}"]').check()
    shown.page.get_by_role("button", name="Add to the hard set").click()
    shown.page.wait_for_url("**/hard-set/plan")
    assert "2 images go into the hard set" in shown.text
    assert "v0.1.0 was trained on 2 of them" in shown.text
    assert shown.axe_violations == []
    shown.page.get_by_label("Reason").fill(WHY)
    shown.page.get_by_role("button", name="Put them into the hard set").click()
    shown.page.wait_for_url("**/hard-set")
    assert job_ended(root, "hard-set").code == 0
    index_of(root).refresh()
    assert {one.id for one in read_hard_set(root).members} == set(train[:2])
    assert {row.facets["split"] for image in train[:2] for row in index_of(root).of_id(image)[:1]} == {"hard"}

    assert "2 images marked never again" in changed(root, site, id=[train[0], *test], what="never", why="the recall")
    assert never_again(root / "data") == {train[0], *test}
    for width, dark in ((1280, False), (390, True)):
        shown = visit(f"{site.url}/hard-set", user=site.user, width=width, dark=dark)
        assert shown.axe_violations == []
        assert not shown.scrolls_sideways
        assert shown.images == shown.images_loaded == 2
        assert WHY in shown.text
    assert shown.page.locator(".tag.bad").count() == 1
    shown = visit(f"{site.url}/images/{train[0]}", user=site.user)
    assert shown.axe_violations == []
    assert shown.page.get_by_role("link", name="hard set").count() == 1
    shown.page.locator("summary", has_text="Take out of the hard set").click()
    shown.page.locator("details[open] textarea").fill("blurred")
    shown.page.locator("details[open] button", has_text="Take out of the hard set").click()
    shown.page.wait_for_url("**/hard-set")
    assert job_ended(root, "hard-set").code == 0
    index_of(root).refresh()
    assert membership(root / "data").removed == {train[0]}

    (newest, *_) = rows(site, "history")
    assert (newest["what"], newest["why"], newest["images"]) == ("taken out 1", "blurred", "1")
    site.post("/hard-set/undo", {"change": newest["change"], "why": "it was fine"}, page="/hard-set")
    assert job_ended(root, "hard-set").code == 0
    index_of(root).refresh()
    assert {row["id"] for row in rows(site, "images")} == set(train[:2])
    assert {row["never again"] for row in rows(site, "images")} == {"yes", ""}


def rows(site, table):
    text = site.get(f"/hard-set?format=csv&table={table}")[2]
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


def kinds(console):
    return [card.kind for card in waiting_cards(console, lambda: LabelCounts(0, 0, 0))]


def test_a_set_that_was_asked_too_often_is_a_card_that_leads_to_new_images(root, site):
    console = site.app.state.console
    assert "looks" not in kinds(console)
    image = ids(root, "train", 1)
    changed(root, site, id=image, what="add", why="a scratch")
    releases = open_project(root)[1]
    for number in range(3):
        sets = {"hard": SetLook(version="hard-1", images=3)}
        about = {"run": f"r-{number}", "by": WHY, "challenger": f"{number:064}", "champion": None, "sets": sets}
        record_look(releases.store, Look(at=datetime.now(UTC), seq=10**6, **about))
    page = site.get("/hard-set")[2]
    assert "The hard set was asked 3 times, more often than its" in page
    assert "&lt;img src=x" in page
    assert "<img src=x" not in page
    status, _, now = site.get("/")
    assert status == 200
    assert "The hard set was asked too often" in now
    assert 'href="/hard-set"' in now, "a page that each role may see"
    assert 'href="/hard-set/mistakes"' in page
    assert "looks" in kinds(console)
    assert len(rows(site, "looks")) == 3
    shown = looks_of(console, hard_view(root, index_of(root)), index_of(root))
    assert [(one.what, one.images, one.used) for one in shown] == [
        (one.what, one.images, one.used) for one in set_looks(root)
    ], "page and command count the same images"


def test_mistakes_of_production_are_planned_and_wrong_names_of_times_are_refused(site):
    status, _, text = site.get("/hard-set/mistakes")
    assert status == 200
    assert "0 images go into the hard set" in text
    assert site.get("/hard-set/mistakes?week=2026-47")[0] == 409
    assert "is not a week" in site.get("/hard-set/mistakes?week=2026-47")[2]


def test_only_approvers_change_it_and_a_form_without_a_reason_changes_nothing(root, site):
    image = ids(root, "train", 1)
    before = membership(root / "data")
    assert site.post("/hard-set/change", {"id": image, "what": "add", "why": ""}, page="/hard-set")[0] in (303, 409)
    assert site.post("/hard-set/change", {"id": image, "what": "drop", "why": "x"}, page="/hard-set")[0] == 400
    assert site.post("/hard-set/undo", {"change": "h-x", "why": "x"}, page="/hard-set")[0] == 404
    words = "four words that rhyme"
    store.join(root, store.add(root, "lea", "labeller", "Bea"), words, words)
    body = urlencode({"name": "lea", "passphrase": words}).encode()
    _, headers, _ = site.ask("/sign-in", "POST", body, Authorization="", Origin=site.url, Accept="text/html")
    signed_in = {"Authorization": "", "Cookie": headers["Set-Cookie"].partition(";")[0]}
    shown = site.get("/hard-set", **signed_in)[2] + site.get(f"/images/{image[0]}", **signed_in)[2]
    assert "Take out of the hard set" not in shown
    assert "Add to the hard set" not in shown
    assert 'href="/hard-set/mistakes"' not in shown
    assert 'href="/hard-set?format=csv"' in shown
    for path in ("change", "plan", "undo"):
        fields = {"id": image, "what": "add", "why": "x", "change": "h-x"}
        assert site.post(f"/hard-set/{path}", fields, "/images", **signed_in)[0] == 403
    (root / ".evergreen/people.json").unlink()
    assert membership(root / "data") == before
