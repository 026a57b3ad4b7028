"""The predictor on the page of services: what it does, and its switches."""

import os

import pytest

from flows.server.processes import created
from tasks.common.checkout import checkout
from tasks.common.files import write_json
from tasks.releases.switches import read_switches, set_humans_only, set_pin
from tests.support import released_project
from tests.support.console import serving

HERE = "/services"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with serving(released_project.copy(tmp_path_factory.mktemp("predictor"))) as found:
        yield found


def test_people_see_the_service_and_switch_it(site, visit):
    root = site.app.state.console.root
    assert "Predictor" not in site.get(HERE)[2], "where it neither runs nor is switched"
    worker = {
        "models": {"live": "v0.2.0"},
        "ready": True,
        "problems": ["<b>hostile</b>"],
        "restarts": 1,
        "counters": {},
    }
    about = {"pid": os.getpid(), "created": created(os.getpid()), "checkout": checkout(root).id}
    about |= {"url": "http://127.0.0.1:4290", "waiting": None, "workers": [worker]}
    write_json(root / ".evergreen/predictor/service.json", about)
    set_pin(root, "v0.1.0", "a" * 64, "ann", "<script>x</script>")
    assert site.post(HERE + "/humans-only", {"on": "on"}, page=HERE)[0] == 303
    assert read_switches(root).humans_only.by
    for width, dark in ((390, True), (1280, False)):
        shown = visit(f"{site.url}{HERE}", user=site.user, width=width, dark=dark)
        small = [one for one in shown.small_targets if "Skip" not in one]
        assert (shown.problems, small, shown.faint_texts, shown.scrolls_sideways) == ([], [], [], False)
    for text in ("v0.2.0 at http://127.0.0.1:4290, 1 of 1 workers", "<b>hostile</b>", "<script>x</script>", "runs"):
        assert text in shown.text
    assert site.post(HERE + "/unpin", {}, page=HERE)[0] == 303
    assert site.post(HERE + "/humans-only", {"on": "off"}, page=HERE)[0] == 303
    found = read_switches(root)
    assert (found.pin, found.humans_only) == (None, None)
    assert [one.what for one in found.history][-2:] == ["unpin v0.1.0", "humans-only off"]


def test_damaged_switches_are_said_and_cannot_be_pressed(site):
    root = site.app.state.console.root
    set_humans_only(root, True, "ann")
    (root / ".evergreen/predictor/switches.json").write_text("{")
    page = site.get(HERE)[2]
    assert "nobody can tell which version was pinned" in page
    assert "/services/humans-only" not in page
