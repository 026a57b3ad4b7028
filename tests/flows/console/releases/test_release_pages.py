"""The pages of releases: what waits on top, three answers, decisions by those who may, versions side by side."""

import csv
import io
import json
import re
import shutil
from pathlib import Path

import pytest

from flows.console.jobs.store import newest_job
from flows.publishing.rollback import rollback
from flows.publishing.run_list import held_runs
from flows.release_report import stored
from tasks.common.checks import Check
from tasks.gate.verdict import GateVerdict
from tests.flows.console.releases.big_report import big_report
from tests.flows.publishing.test_held import end
from tests.support import released_project
from tests.support.console import job_ended, serving
from tests.support.released_project import store

HOSTILE = '<img src=x onerror="alert(1)">'
CHECKS = [
    Check(name="test.balanced_accuracy", status="fail", value=0.004, low=-0.02, high=0.03, bound=0.0,
          detail="not shown to be better: 0.604 against 0.600 on 36 images; by luck"),
    Check(name=f"class.{HOSTILE}.recall", status="fail", value=-0.2, low=-0.4, high=0.0, bound=-0.05,
          detail=f"perhaps worse: 0.4 against 0.6 on {HOSTILE} images"),
    Check(name="size_mb", status="pass", value=14.2, bound=100, detail="MB of the exported model: 14.2, at most 100"),
]  # fmt: skip
HOLD = GateVerdict(
    outcome="hold",
    sentence=f"hold: perhaps worse {HOSTILE}",
    checks=CHECKS,
    challenger="c",
    champion="v0.3.0",
    hard_set=None,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Three versions, and a held run that was judged against the live one."""
    main = released_project.copy(tmp_path_factory.mktemp("releases"))
    hold(main, "run-4")
    return main


@pytest.fixture
def main(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "main", symlinks=True)


def hold(main: Path, run_id: str, verdict: GateVerdict = HOLD) -> None:
    end(main, run_id, "held", keep=True)
    about = {
        "verdict": verdict.model_dump(mode="json"),
        "sentence": verdict.sentence,
        "reason": f"window 20261121T120000Z-20261121T121500Z: {HOSTILE}",
    }
    store(main).change_run(run_id, lambda record: record | about)


def test_a_held_run_is_on_top_of_the_releases_with_its_reason(made):
    assert [row.run_id for row in held_runs(made)] == ["run-4"]
    with serving(made) as site:
        status, _, text = site.get("/releases")
    assert status == 200
    assert text.index("Waiting for approval") < text.index("Live since") < text.index("v0.1.0")
    assert HOSTILE not in text
    assert 'href="/releases/run-4">Decide</a>' in text
    assert "first model" in text


def test_the_page_of_a_held_run_answers_three_questions(made):
    with serving(made) as site:
        status, _, text = site.get("/releases/run-4")
    assert status == 200
    assert HOSTILE not in text
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    assert "Is it better? Not shown" in plain
    assert "Is anything worse? Perhaps" in plain
    assert "What if I do nothing? v0.3.0 stays live; this run goes on waiting." in plain
    assert "against v0.3.0, which is what counts now" in plain
    assert "Approve and publish" in plain
    assert 'href="/production/20261121T120000Z-20261121T121500Z"' in text
    assert "/compare?a=v0.3.0&amp;b=run-4" in text
    assert text.count('class="check"') == 3


FLOORS = [
    Check(name=f"floor.class.{HOSTILE}.recall", status="fail", value=0.9, low=0.8, high=0.95, bound=0.92,
          detail=f"below: recall 0.900, at least 0.92, on 40 images of class {HOSTILE} on the test set"),
    Check(name="floor.hard.accuracy", status="pass", value=0.95, low=0.85, high=0.99, bound=0.9,
          detail="unproven: accuracy 0.950, at least 0.9, on 60 images of the hard set; 140 such images would do"),
    Check(name="worst_source.balanced_accuracy", status="pass", value=0.6, low=0.4, high=0.8, bound=0.2,
          detail="met: balanced accuracy 0.600 on 30 images of the worst source, cam-3; guessing gives 0.2"),
]  # fmt: skip


def test_floors_are_shown_with_their_state_on_the_page_and_in_the_list(main):
    verdict = HOLD.model_copy(update={"checks": [*FLOORS, CHECKS[2]], "champion": None})
    hold(main, "run-5", verdict)
    (row, *_) = held_runs(main)
    assert row.floors == "1 unproven, 1 below"
    with serving(main) as site:
        text = site.get("/releases/run-5")[2]
        listed = site.get("/releases")[2]
    plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    assert HOSTILE not in text
    assert "Is anything worse? Perhaps Whether these figures reach their floor is not shown." in plain
    assert "140 such images would do" in plain
    assert "floor: accuracy on the hard set" in plain
    assert "30 images of the worst source, cam-3" in plain
    assert text.count('class="margin"') == 3
    assert "Floors: 1 unproven, 1 below." in listed


def test_two_versions_are_compared_under_the_floors_of_today(main):
    params = main / "params.yaml"
    params.write_text(params.read_text().replace("  floors: []", "  floors: [{class: coat, recall: 0.97}]"))
    with serving(main) as site:
        text = site.get("/compare?a=v0.1.0&b=v0.2.0")[2]
        rows = list(csv.reader(io.StringIO(site.get("/compare?a=v0.1.0&b=v0.2.0&format=csv")[2])))
    assert "<td>floor: recall of class coat</td>" in re.sub(r"<span[^>]*>|</span>", "", text)
    (row,) = [row for row in rows if row[0] == "floor"]
    assert row[1] == "floor: recall of class coat"
    assert "at least 0.97, on 2 images of class coat" in row[5]
    assert "at least 0.97, on 4 images of class coat" in row[5]


def signed_in(site, root: Path, name: str, role: str) -> dict[str, str]:
    """Headers of a request by a person with `role`."""
    from tests.flows.console.people.test_sign_in import person, sign_in

    person(root, name, role)
    return {"Authorization": "", "Cookie": sign_in(site, name)[1]}


def test_a_viewer_sees_who_decides_and_gets_403(main):
    with serving(main) as site:
        viewer = signed_in(site, main, "Vera", "viewer")
        _, _, text = site.get("/releases/run-4", **viewer)
        assert "You are signed in as viewer. An approver or admin decides" in text
        assert "Approve and publish" not in text
        assert "Comment or ask" not in text
        for action in ("preview", "approve", "refuse", "override", "comment", "rollback"):
            fields = {"why": "x", "text": "x", "typed": "run-4"}
            status, _, said = site.post(f"/releases/run-4/{action}", fields, page="/services", **viewer)
            assert status == 403, action
            assert "You are signed in as Vera, viewer." in said
        assert newest_job(main, "decide run-4") is None
        labeller = signed_in(site, main, "Lee", "labeller")
        status, headers, _ = site.post(
            "/releases/run-4/comment", {"text": f"What about {HOSTILE}?"}, page="/releases/run-4", **labeller
        )
        assert (status, headers["location"]) == (303, "/releases/run-4#comments")
        _, _, text = site.get("/releases/run-4", **viewer)
        assert "<b>Lee</b>" in text
        assert HOSTILE not in text
    assert store(main).run("run-4")["comments"][0]["by"] == "Lee"


def test_an_approver_refuses_a_run_with_a_reason(main):
    with serving(main) as site:
        approver = signed_in(site, main, "Ava", "approver")
        page = "/releases/run-4"
        status, headers, _ = site.post(f"{page}/refuse", {"why": " ", "back": page}, page=page, **approver)
        assert (status, headers["location"]) == (303, page)
        assert "a%20reason%20is%20needed" in headers["set-cookie"]
        assert store(main).run("run-4")["outcome"] == "held"
        assert site.post(f"{page}/refuse", {"why": "blurred"}, page=page, **approver)[0] == 303
        assert store(main).run("run-4")["decisions"][0]["by"] == "Ava"
        _, _, text = site.get(page, **approver)
        assert "refused by Ava" in text
        assert "Approve and publish" not in text
        assert "Publish against the gate" in text
        _, _, text = site.get("/releases", **approver)
        assert "Waiting for approval" not in text
        assert "1 other run: 1 refused by Ava" in text
        _, _, text = site.get("/releases?outcome=rejected")
        assert "refused by Ava" in text


def test_an_override_needs_the_typed_run_and_is_a_job_in_the_persons_name(main):
    with serving(main) as site:
        approver = signed_in(site, main, "Ava", "approver")
        page = "/releases/run-4"
        wrong = {"why": "signed off", "typed": "run-3", "back": page}
        _, headers, _ = site.post(f"{page}/override", wrong, page=page, **approver)
        assert "nothing%20was%20published" in headers["set-cookie"]
        right = wrong | {"typed": "run-4", "why": "--signed off"}
        assert site.post(f"{page}/override", right, page=page, **approver)[0] == 303
        assert newest_job(main, "decide run-4").arguments == ["promote", "run-4", "--override", "--why=--signed off"]
        job_ended(main, "decide run-4")
        live = store(main).live()
        assert (live.run_id, live.by) == ("run-4", "Ava")
        _, _, text = site.get(page, **approver)
        assert "published it against the gate" in text
        assert "v0.4.0" in text


def test_a_rollback_says_what_it_changes_and_can_tombstone(main):
    with serving(main) as site:
        _, _, text = site.get("/releases/run-2")
        assert 'href="/releases/v0.2.0/rollback">Roll back to v0.2.0</a>' in text
        page = "/releases/v0.2.0/rollback"
        status, _, text = site.get(page)
        assert status == 200
        assert "was made with 1 batch (18 images) that v0.2.0 does not know" in re.sub(r"\s+", " ", text)
        assert 'name="tombstone" value="b-3"' in text
        _, headers, _ = site.post(page, {"why": "x", "tombstone": "b-1", "back": page}, page=page)
        assert "no%20batch" in headers["set-cookie"]
        fields = {"why": "worse", "tombstone": "b-3", "data": "both"}
        assert site.post(page, fields, page=page)[0] == 303
        assert newest_job(main, "rollback").arguments == ["rollback", "v0.2.0", "--why=worse", "--tombstone=b-3"]
        job_ended(main, "rollback")
        assert store(main).live().version == "v0.2.0", newest_job(main, "rollback").said
        assert "b-3" in store(main).tombstones()
        _, _, text = site.get("/releases")
        assert "live again by a rollback" in text
        assert site.get("/releases/v9.9.9/rollback")[0] == 404


def test_two_versions_side_by_side_with_the_images_that_flipped(made):
    with serving(made) as site:
        status, _, text = site.get("/compare?a=v0.1.0&b=v0.3.0")
        assert status == 200
        plain = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
        assert "6 images were tested with both; 12 only with v0.3.0" in plain
        (wrong,) = re.findall(r"Right, now wrong: (\d+)", plain)
        assert int(wrong) > 0
        assert text.count('src="/thumbs/') >= int(wrong)
        assert "train_backbone.learning_rate" in text
        assert "added:" in text
        rows = list(csv.reader(io.StringIO(site.get("/compare?a=v0.1.0&b=v0.3.0&format=csv")[2])))
        assert {row[0] for row in rows} >= {"figure", "class", "image", "setting", "batch added"}
        assert sum(row[0] == "image" for row in rows) == int(wrong)
        assert "no version" in site.get("/compare?a=nope&b=v0.3.0")[2]
        _, _, text = site.get("/compare?b=run-4")
        assert '<option value="run-4" selected>' in text
        assert "cannot name anything" in site.get("/compare?a=../x&b=v0.3.0")[2]


def test_all_tables_of_a_run_are_one_file(main):
    store(main).store.swap(stored.key_of("run-4"), json.dumps(big_report()).encode(), None)
    with serving(main) as site:
        text = site.get("/releases/run-4?format=csv")[2].removeprefix("\ufeff")
        assert "All figures as CSV" in site.get("/releases/run-4")[2]
    rows = list(csv.DictReader(io.StringIO(text)))
    kinds = {row["kind"] for row in rows}
    assert kinds == {"check", "figure", "recall", "confusion", "refused file", "labelled images", "training labels",
                     "setting", "batch"}  # fmt: skip
    assert sum(row["kind"] == "recall" for row in rows) == 200
    assert [row["value"] for row in rows if row["what"] == "balanced accuracy on the test set"] == ["0.004"]


def test_a_page_has_buttons_where_a_sentence_names_commands(main):
    said = "hold: equal. `evergreen approve run-4` publishes it."
    store(main).change_run("run-4", lambda record: record | {"sentence": said})
    with serving(main) as site:
        for page in ("/", "/releases", "/releases/run-4"):
            text = site.get(page)[2]
            assert "evergreen approve" not in text, page
    assert held_runs(main)[0].told == "hold: equal."


def test_versions_whose_objects_are_gone_are_compared_as_far_as_possible(main):
    for place in (main / ".dvc/cache", main / ".evergreen/remote"):
        shutil.rmtree(place)
    with serving(main) as site:
        _, _, text = site.get("/compare?a=v0.1.0&b=v0.2.0")
        assert "Cannot be told: " in text
        assert "Not compared: " in text
        assert "balanced accuracy on the test set" in text, "git has the figures"
        _, _, text = site.get("/releases/v0.2.0/rollback")
        assert "Only its model can go back." in text
        assert 'value="model" checked' in text


def test_a_verdict_against_what_is_not_live_any_more_is_out_of_date(main):
    stale = HOLD.model_copy(update={"champion": "v0.2.0"})
    store(main).change_run("run-4", lambda record: record | {"verdict": stale.model_dump(mode="json")})
    with serving(main) as site:
        _, _, text = site.get("/releases/run-4")
        assert "so this verdict is out of date" in text
        assert "Approve and publish" not in text, "it is judged again first"
        assert 'class="btn main">Judge it again now' in text
        assert site.post("/releases/run-4/preview", {}, page="/releases/run-4")[0] == 303
        assert newest_job(main, "decide run-4").arguments == ["approve", "run-4", "--preview"]
        job_ended(main, "decide run-4")
        _, _, text = site.get("/releases/run-4")
        assert "failed</span>" in text, "this project has no real model to judge"


def test_the_list_as_a_file_and_by_outcome(made):
    with serving(made) as site:
        rows = list(csv.DictReader(io.StringIO(site.get("/releases?format=csv")[2].removeprefix("\ufeff"))))
        assert [row["what"] for row in rows] == ["waits for approval", *["promoted"] * 3]
        assert site.get("/releases?outcome=odd")[0] == 200
        assert "No run ended so." in site.get("/releases?outcome=unchanged")[2]
        assert site.get("/releases?after=2")[2].count('class="release') == 1
        status, headers, _ = site.get("/releases/v0.2.0")
        assert (status, headers["location"]) == (307, "/releases/run-2")


def test_records_without_report_damaged_ones_and_unknown_runs_are_said(main):
    folder = main / ".evergreen/releases/runs"
    (folder / "torn.json").write_text("{")
    (folder / "odd.json").write_text('{"outcome": 3}')
    with serving(main) as site:
        _, _, text = site.get("/releases?outcome=damaged")
        assert text.count("its record is damaged</span>") == 2
        status, _, text = site.get("/releases/torn")
        assert (status, "is not JSON" in text) == (404, True)
        assert site.get("/releases/odd")[0] == 409
        assert site.get("/releases/no-such-run")[0] == 404
        assert site.get("/releases/..%2Fchampion")[0] == 404
        for part in ("", "figures", "mistakes", "data", "changes", "again", "odd"):
            status, _, text = site.get(f"/releases/run-1?part={part}")
            assert status == 200
            assert "figures of this run" in text


def test_a_version_without_a_record_shows_what_its_pointer_says(main):
    (main / ".evergreen/releases/runs/run-2.json").unlink()
    rollback(main, "v0.2.0", by="Bea", why="run-3 is worse", model_only=True)
    live = store(main).live()
    with serving(main) as site:
        status, headers, _ = site.get("/releases/v0.2.0")
        assert (status, headers["location"]) == (307, "/releases/run-2")
        assert site.get(f"/releases/{live.run_id}")[1]["location"] == "/releases/run-2", "a rollback has no run"
        status, _, text = site.get("/releases/run-2")
        assert status == 200
        assert "has no record here" in text
        assert "new batch" in text, "why it was promoted"
        assert text.count("v0.2.0 was live from") == 2
        assert "/runs/run-2" not in text
        assert "Comment or ask" not in text
        assert site.post("/releases/run-2/comment", {"text": "x"}, page="/releases/run-2")[0] == 404
        assert site.get("/releases?format=csv")[0] == 200
        for address in re.findall(r'href="(/releases/[^"]+)"', site.get("/releases")[2]):
            assert site.get(address)[0] in (200, 307), address
