"""The rollout on the page of its run: what goes on, both models side by side, and what people may order."""

import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.rollout.act import look
from flows.rollout.begin import begin_rollout
from tasks.releases.rollout import active, newest
from tests.flows.console.releases.test_release_pages import signed_in
from tests.support.console import job_ended, serving
from tests.support.released_project import CLASSES, store
from tests.support.rolling_project import RUN, copy, strategy, traffic

HOSTILE = '<img src=x onerror="alert(1)">'
PAGE = f"/releases/{RUN}"
EARLIER = datetime.now(UTC) - timedelta(minutes=5)
WIDE, SMALL = {"width": 1280}, {"width": 390, "dark": True}


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A canary in its first step, whose traffic has labels."""
    main = copy(tmp_path_factory.mktemp("canary"))
    begin_rollout(main, RUN, by=f"ann {HOSTILE}", why=f"a try {HOSTILE}", now=EARLIER)
    traffic(main, active(store(main)), 200, right=0.8)
    return main


@pytest.fixture(scope="module")
def shadow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    main = strategy(copy(tmp_path_factory.mktemp("shadow")), "strategy: shadow\n  min_requests: 20")
    look(main, now=EARLIER)
    traffic(main, active(store(main)), 120, right=0.8, labels=False)
    return main


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


def test_a_canary_shows_its_steps_and_both_models(canary):
    with serving(canary) as site:
        status, _, text = site.get(PAGE)
        listed = site.get("/releases")[2]
    said = plain(text)
    assert status == 200
    assert HOSTILE not in text
    assert "v0.4.0 answers 20 % of the traffic (canary, step 1 of 2)" in said
    assert "then 50 %" in said
    assert "The monitor would" in said
    assert "v0.3.0 (live) v0.4.0 (challenger)" in said
    assert "How often it is right" in said
    assert "What it answers" in said
    assert all(name in said for name in CLASSES)
    assert "Do they agree?" not in said
    assert all(button in said for button in ("Next share", "Promote now", "Stop the rollout"))
    assert f'href="{PAGE}#rollout"' in listed


def test_a_shadow_shows_where_the_two_models_agree(shadow):
    with serving(shadow) as site:
        said = plain(site.get(PAGE)[2])
    assert "v0.4.0 answers the traffic of v0.3.0 unseen (shadow)" in said
    assert "Do they agree? The same answer to this share of the images:" in said
    assert "of 120" in said
    assert "Rows: v0.3.0. Columns: v0.4.0." in said
    assert "Next share" not in said, "a shadow has one step"


def test_only_an_approver_orders_and_with_a_reason(canary, tmp_path):
    main = shutil.copytree(canary, tmp_path / "main", symlinks=True)
    order = f"{PAGE}/rollout/stop"
    with serving(main) as site:
        eve = signed_in(site, main, "Eve", "labeller")
        assert "An approver or admin decides." in plain(site.get(PAGE, **eve)[2])
        assert site.post(order, {"why": "no"}, page="/services", **eve)[0] == 403
        ava = signed_in(site, main, "Ava", "approver")
        status, headers, _ = site.post(order, {"why": " ", "back": PAGE}, page=PAGE, **ava)
        assert (status, "a%20reason%20is%20needed" in headers["set-cookie"]) == (303, True)
        assert site.post(f"{PAGE}/rollout/eat", {"why": "x"}, page=PAGE, **ava)[0] == 404
        headers = site.post("/releases/run-1/rollout/stop", {"why": "x", "back": PAGE}, page=PAGE, **ava)[1]
        assert "has%20ended" in headers["set-cookie"]
        assert active(store(main)) is not None
        assert site.post(order, {"why": f"too slow {HOSTILE}"}, page=PAGE, **ava)[0] == 303
        job = job_ended(main, f"decide {RUN}")
        assert not job.failed, job.said
        text = site.get(PAGE, **ava)[2]
    ended = newest(store(main)).ended
    assert (ended.how, ended.why) == ("stopped", f"too slow {HOSTILE}")
    assert "v0.4.0 was stopped by" in plain(text)
    assert HOSTILE not in text
    assert "Stop the rollout" not in plain(text)


def test_a_damaged_rollout_is_said_and_the_page_stays(canary, tmp_path):
    main = shutil.copytree(canary, tmp_path / "main", symlinks=True)
    releases = store(main)
    releases.store.swap("rollout.json", b"{", releases.store.read("rollout.json")[1])
    with serving(main) as site:
        status, _, text = site.get(PAGE)
        listed = site.get("/releases")
    assert (status, listed[0]) == (200, 200)
    assert "rollout.json in the release store is not JSON" in plain(text)
    assert "rollout.json in the release store is not JSON" in plain(listed[2])


@pytest.mark.long
def test_the_section_is_whole_in_both_widths_and_themes(canary, shadow, visit):
    for main in (canary, shadow):
        with serving(main) as site:
            for kind in (WIDE, SMALL):
                shown = visit(site.url + PAGE, user=site.user, **kind)
                assert [one for one in shown.problems if "404" not in one] == []
                assert not shown.scrolls_sideways, kind
                assert shown.axe_violations == [], kind
