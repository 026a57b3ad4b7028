"""The labelling pages over HTTP: every answer is on disk, people do not get in each other's way."""

import csv
import io
import json
import re
import shutil
from urllib.parse import quote, urlencode

import pytest

from flows.console.jobs.store import newest_job
from flows.console.labelling.state import labelling_in
from flows.console.people import session
from flows.console.people import store as people
from flows.labels import journal
from flows.labels.define import define
from flows.labels.people import read_words
from flows.labels.sitting_store import Sittings
from flows.production.finish import finish
from flows.repo.run_inputs import current_inputs
from monitoring.review.assignments import assign
from tasks.common.checkout import checkout
from tasks.common.files import write_json
from tasks.common.params import load_params
from tests.support.checkout import git
from tests.support.console import job_ended, serving
from tests.support.label_queues import other, project, the_log, waiting_in

WORDS = "four words that rhyme"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return project(tmp_path_factory.mktemp("label-pages") / "main")


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "main", symlinks=True)


@pytest.fixture
def site(root):
    with serving(root) as served:
        yield served


def state_of(text: str) -> dict:
    """What the page gives to its script."""
    return json.loads(re.search(r'id="label-state">(.*?)</script>', text, re.S)[1])


def send(site, path: str, fields: dict, **headers: str):
    """Post a form of a labelling page."""
    return site.post(path, fields, "/label", **headers)


def signed_in(root, name: str, role: str = "labeller") -> dict[str, str]:
    """Headers of a browser in which this person is signed in."""
    people.join(root, people.add(root, name, role, "eve"), WORDS, WORDS)
    own, mark = checkout(root), people.read_people(root).active(name).session
    cookie = session.new_cookie(own, session.PERSON, name, mark)
    return {"Authorization": "", "Cookie": f"{session.cookie_name(own)}={cookie}"}


def shown_id(text: str) -> str:
    return re.search(r'name="id" value="([0-9a-f]{64})"', text)[1]


def table(text: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


def given(root) -> list[tuple]:
    return [(one.id, one.label, one.annotator, one.role) for one in journal.pending(root)]


def test_the_overview_counts_what_waits_and_every_table_can_be_downloaded(root, site):
    status, _, text = site.get("/label")
    assert status == 200
    counts = {queue: len(waiting_in(root, queue)) for queue in ("production", "issues", "audit")}
    rows = table(site.get("/label?format=csv")[2])
    assert [int(row["waiting"]) for row in rows] == list(counts.values())
    assert "A retraining starts with 1000 more; if the images drift, with 50 more." in text
    assert [row["name"] for row in table(site.get("/label?format=csv&table=people")[2])] == ["cleo"]
    issues = table(site.get("/label/issues?format=csv")[2])
    assert [row["id"] for row in issues] == [one.id for one in waiting_in(root, "issues")]
    assert {row["suggestion"] for row in table(site.get("/label/audit?format=csv")[2])} == {""}  # blind
    assert site.get("/label/nothing")[0] == 404


def test_the_queues_are_read_before_a_page_asks_for_them(root, site):
    found = labelling_in(site.app)
    found.warm()
    assert {"log", "picks", "issues"} <= set(found.queues._kept)
    (root / "params.yaml").write_text("data: [")
    found.warm()  # the page that needs it says what is wrong


def test_without_a_script_images_are_labelled_one_by_one_by_plain_forms(root, site):
    text = site.get("/label/production")[2]
    first = shown_id(text)
    assert f'src="/label/image/{first}?queue=production"' in text
    status, headers, _ = send(site, "/label/production/answer", {"id": first, "label": "Bag"})
    assert (status, headers["Location"]) == (303, "/label/production")
    assert given(root) == [(first, "Bag", "a tester", "annotator")]
    second = shown_id(site.get("/label/production")[2])
    assert second != first
    for action, fields in (("skip", {}), ("other", {}), ("exclude", {"why": "blurred"}), ("suggestion", {})):
        image = shown_id(site.get("/label/production")[2])
        assert send(site, "/label/production/answer", {"id": image, "action": action} | fields)[0] == 303
    found = journal.pending(root)
    assert [(one.exclude, one.why) for one in found] == [(False, ""), (True, "blurred"), (False, "")]
    assert (
        found[2].label == next(one for one in waiting_in(root, "production") if one.id == found[2].id).asked.prediction
    )
    answered = {one.id for one in found}
    assert shown_id(site.get("/label/production")[2]) not in answered | {second}
    send(site, "/label/production/undo", {})
    assert len(journal.pending(root)) == 2


def test_the_digits_follow_the_likelihood_and_an_audit_is_blind(root, site):
    item = state_of(site.get("/label/production")[2])["items"][0]
    shares = [one["p"] for one in item["classes"]]
    assert shares == sorted(shares, reverse=True)
    assert item["suggestion"] == item["classes"][0]["name"]
    fixed = state_of(site.get("/label/production?order=fixed")[2])["items"][0]
    assert [one["name"] for one in fixed["classes"]] == ["Ankle boot", "Bag", "Trouser"]
    blind = state_of(site.get("/label/audit")[2])["items"][0]
    assert (blind["suggestion"], blind["confidence"], blind["classes"][0]["p"]) == (None, None, None)
    assert send(site, "/label/audit/answer", {"id": blind["id"], "action": "suggestion"})[0] == 409


def test_nine_images_are_held_and_the_script_gets_more_with_its_answers(root, site):
    items = state_of(site.get("/label/production")[2])["items"]
    assert len(items) == 9
    have = [item["id"] for item in items[1:]]
    fields = {"entry": urlencode({"id": items[0]["id"], "label": "Bag"}), "have": have}
    status, _, text = send(site, "/label/production/answer", fields, Accept="application/json")
    answer = json.loads(text)
    assert (status, answer["done"], answer["free"], answer["gone"]) == (200, 1, 11, [])
    assert len(answer["items"]) == 1
    assert answer["items"][0]["id"] not in {items[0]["id"], *have}
    again = send(site, "/label/production/answer", fields, Accept="application/json")[0]
    assert (again, len(given(root))) == (200, 1)  # the browser had heard no reply
    sent = [urlencode({"id": have[0], "label": "Spaceship"}), urlencode({"id": have[1], "action": "exclude"})]
    status, _, text = send(site, "/label/production/answer", {"entry": sent}, Accept="application/json")
    wrong, right = json.loads(text)["told"]
    assert "is not a class" in wrong["refused"]
    assert right["said"].startswith("Saved")
    assert [name for name, *_ in given(root)] == [items[0]["id"], have[1]]


def test_two_people_at_once_get_different_images(root, site):
    ann, bob = signed_in(root, "ann"), signed_in(root, "bob")

    def sitting(who: dict, queue: str = "production") -> list[str]:
        return [item["id"] for item in state_of(site.get(f"/label/{queue}", **who)[2])["items"]]

    mine, theirs = sitting(ann), sitting(bob)
    assert (len(mine), len(theirs)) == (9, 3)
    assert not set(mine) & set(theirs)
    assert "Your answer is one vote" in site.get("/label/issues", **ann)[2]
    name = waiting_in(root, "issues")[0].id
    assign(the_log(root).store, "ann", None, [name], "eve")
    Sittings(root).end("ann")
    assert name not in sitting(bob, "issues")
    Sittings(root).end("bob")
    assert sitting(ann, "issues")[0] == name
    send(site, "/label/issues/answer", {"id": name, "action": "other"}, **ann)
    Sittings(root).end("ann")
    assert sitting(bob, "issues") == [one.id for one in waiting_in(root, "issues")]
    send(site, "/label/issues/answer", {"id": name, "label": "Bag"}, **bob)
    assert given(root) == [(name, "Bag", "bob", "annotator")]


def test_a_viewer_sees_what_waits_and_may_answer_nothing(root, site):
    eve = signed_in(root, "eve", "viewer")
    assert site.get("/label", **eve)[0] == 200
    assert site.get("/label/production", **eve)[0] == 403
    for path in ("production/answer", "production/undo", "production/accept", "finish", "pick", "assign", "classes"):
        assert site.post(f"/label/{path}", {"id": "x"}, "/people", **eve)[0] == 403, path
    assert given(root) == []


def test_a_sitting_is_finished_as_one_commit_and_an_issue_changes_the_label(root, site):
    before = git(root, "rev-parse", "HEAD")
    text = site.get("/label/issues")[2]
    assert "your word changes the label that the next run trains on" in text
    item = next(one for one in state_of(text)["items"] if one["suggestion"])
    send(site, "/label/issues/answer", {"id": item["id"], "action": "suggestion"})
    image = shown_id(site.get("/label/production")[2])
    send(site, "/label/production/answer", {"id": image, "label": other("Bag")})
    assert "2 answers are on disk and not yet taken, 2 of them yours" in site.get("/label")[2]
    assert send(site, "/label/finish", {})[0] == 303
    job_ended(root, "labels")
    assert newest_job(root, "labels").code == 0, newest_job(root, "labels").said
    assert git(root, "rev-list", "--count", f"{before}..HEAD") == "1"
    assert read_words(root, load_params(root / "params.yaml")).now()[item["id"]] == item["suggestion"]
    assert journal.pending(root) == []
    assert "No answer waits to be taken" in site.get("/label")[2]
    assert item["id"] not in site.get("/label/issues?format=csv")[2]


def test_labels_count_as_soon_as_they_are_committed(root, site):
    (root / "tombstones.json").write_text("{}\n")  # else nothing can be retrained, and no label counts
    git(root, "add", "tombstones.json")
    git(root, "commit", "-qm", "Allow runs")
    file = root / ".evergreen" / "seen" / f"{current_inputs(root)[0]}.json"
    write_json(file, {"outcome": "promoted", "sentence": "promoted", "run": "r-1"})
    send(site, "/label/production/answer", {"id": shown_id(site.get("/label/production")[2]), "label": "Bag"})
    finish(root, commit=False)
    assert "0 new labels since the live version" in site.get("/label")[2]
    git(root, "commit", "-qm", "Labels", "data.dvc")
    assert "1 new labels since the live version" in site.get("/label")[2]


def test_a_grid_accepts_one_suggested_class_but_the_crossed_out(root, site):
    text = site.get("/label/production?view=grid")[2]
    chosen = re.search(r'name="class" value="([^"]+)"', text)[1]
    ids = re.findall(r'name="id" value="([0-9a-f]{64})"', text)
    assert len(ids) > 2
    crossed = site.get(f"/label/production?view=grid&class={quote(chosen)}&out={ids[0][:12]}")[2]
    assert re.search(rf'value="{ids[0]}"[^>]* checked', crossed)
    assert send(site, "/label/production/accept", {"class": chosen, "id": ids, "out": ids[0]})[0] == 303
    assert {(name, label) for name, label, *_ in given(root)} == {(name, chosen) for name in ids[1:]}
    left = {row["id"] for row in table(site.get("/label/production?format=csv")[2])}
    assert ids[0] in left
    assert not left & set(ids[1:])
    assert "labelled one by one" in site.get("/label/audit?view=grid")[2]


def test_an_approver_assigns_and_everybody_sees_who_has_what(root, site):
    fields = {"queue": "production", "person": "bob", "number": "4", "due": "2999-01-31"}
    assert send(site, "/label/assign", fields)[0] == 303
    text = site.get("/label")[2]
    assert "2999-01-31" in text
    assert "4 assigned to others" in text
    assert table(site.get("/label?format=csv&table=assigned")[2])[0]["images"] == "4"
    for wrong in ({"number": "0"}, {"due": "tomorrow"}, {"person": ""}, {"queue": "issues; x"}):
        assert send(site, "/label/assign", fields | wrong)[0] in (303, 404, 409)
    assert len(table(site.get("/label?format=csv&table=assigned")[2])) == 1


def test_images_are_served_to_be_kept_and_an_unknown_one_is_not_there(root, site):
    (one, *_), (issue, *_) = waiting_in(root, "production"), waiting_in(root, "issues")
    status, headers, _ = site.get(f"/label/image/{one.id}?queue=production")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert "immutable" in headers["Cache-Control"]
    assert site.get(f"/label/image/{one.id}?queue=production", If_None_Match=headers["ETag"])[0] == 304
    assert site.get(f"/label/image/{issue.id}?queue=issues")[0] == 200
    assert site.get(f"/label/image/{'f' * 64}?queue=issues")[0] == 404


def test_a_class_is_no_option_of_the_command(root, site):
    site.post("/label/classes", {"class": "--image=x", "why": "--commit"}, page="/label/classes")
    job_ended(root, "define --image=x")
    job = newest_job(root, "define --image=x")
    assert job.code == 1
    assert "'--image=x'" in job.result


def test_the_classes_page_shows_what_each_means_with_images(root, site):
    (issue, *_) = waiting_in(root, "issues")
    define(root, "Bag", ["Bag"], text="with a handle", images=[issue.id], by="eve")
    text = site.get("/label/classes")[2]
    assert "with a handle" in text
    assert f"/label/image/{issue.id}" in text
    assert table(site.get("/label/classes?format=csv")[2])[1]["meaning"] == "with a handle"
    assert "with a handle" in site.get("/label/production")[2]
