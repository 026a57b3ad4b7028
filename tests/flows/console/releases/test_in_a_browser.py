"""The pages of releases in a real Chromium: full of hostile names, in both widths and themes, with a long history."""

import json
import re
import shutil

import pytest

from flows.publishing.decisions import refuse
from flows.release_report import stored
from tasks.releases.pointer import successor
from tests.flows.console.releases.big_report import CLASSES, HOSTILE, big_report
from tests.flows.console.releases.test_release_pages import CHECKS, HOLD, hold
from tests.support import released_project
from tests.support.console import serving
from tests.support.released_project import store

NODES = 1500
WIDE, SMALL = {"width": 1280}, {"width": 390, "dark": True}
PAGES = {  # the walk over the whole console tries all in both
    "/releases": (SMALL,),
    "/releases?outcome=rejected": (),
    "/releases/run-4": (SMALL,),
    "/releases/run-4?part=figures": (WIDE, SMALL),
    "/releases/run-4?part=mistakes": (),
    "/releases/run-4?part=data": (),
    "/releases/run-4?part=changes": (SMALL,),
    "/releases/run-4?part=again": (),
    "/releases/v0.2.0/rollback": (SMALL,),
    "/compare?a=v0.1.0&b=v0.3.0": (SMALL,),
}


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    """A held run with 200 classes, and the stored data of its report."""
    main = released_project.copy(tmp_path_factory.mktemp("browser"))
    checks = [CHECKS[1].model_copy(update={"name": f"class.{name}.recall"}) for name in CLASSES]
    hold(main, "run-4", HOLD.model_copy(update={"checks": [*CHECKS, *checks]}))
    store(main).store.swap(stored.key_of("run-4"), json.dumps(big_report()).encode(), None)
    return main


@pytest.mark.long
def test_every_page_is_whole_in_both_widths_and_themes(main, visit):
    with serving(main) as site:
        for page, kinds in PAGES.items():
            text = site.get(page)[2]
            assert HOSTILE not in text
            assert len(re.findall(r"<[a-zA-Z]", text)) < NODES, page
            for kind in kinds:
                shown = visit(site.url + page, user=site.user, **kind)
                assert [one for one in shown.problems if "404" not in one] == [], page  # made-up images have no picture
                assert not shown.scrolls_sideways, (page, kind)
                assert shown.axe_violations == [], (page, kind)
                if "figures" in page:
                    ratios = shown.page.evaluate(RATIOS)
                    assert len(ratios) > 300
                    assert min(ratios) >= 4.5, (kind, min(ratios))


# of each cell of the confusion table: the contrast of its number
RATIOS = """() => {
  const context = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d');
  const light = colour => {
    context.fillStyle = colour; context.fillRect(0, 0, 1, 1);
    const part = c => { c /= 255; return c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4; };
    const [r, g, b] = context.getImageData(0, 0, 1, 1).data;
    return .2126 * part(r) + .7152 * part(g) + .0722 * part(b);
  };
  return [...document.querySelectorAll('.confusion td.own, .confusion td.miss')].map(cell => {
    const style = getComputedStyle(cell);
    const sides = [light(style.color), light(style.backgroundColor)].sort((a, b) => a - b);
    return (sides[1] + .05) / (sides[0] + .05);
  });
}"""


def test_an_open_page_says_what_somebody_else_decided(main, visit, tmp_path):
    root = shutil.copytree(main, tmp_path / "main", symlinks=True)
    with serving(root) as site:
        shown = visit(f"{site.url}/releases/run-4", user=site.user)
        shown.page.get_by_role("heading", name="A model waits for approval").wait_for()
        refuse(root, "run-4", by="Bob", why="too dark")
        shown.page.get_by_role("heading", name="Run run-4").wait_for()
        shown.page.get_by_role("heading", name="What happened?").wait_for()
        assert "this run goes on waiting" not in shown.text


def test_a_long_history_is_paged(main, tmp_path):
    copy = shutil.copytree(main, tmp_path / "main", symlinks=True)
    releases = store(copy)
    live = releases.live()
    for number in range(60):
        about = {
            "version": f"v0.{4 + number}.0",
            "run_id": f"r-{number}",
            "git_rev": live.git_rev,
            "bundle": live.bundle,
        }
        live = releases.promote(successor(live, by="ann", why=HOSTILE, **about))
    with serving(copy) as site:
        text = site.get("/releases")[2]
        assert text.count('<li class="release') == 50
        (older,) = re.findall(r'href="(/releases\?after=\d+)" rel="next"', text)
        text = site.get(older)[2]
        assert text.count('<li class="release') == 13
        assert 'rel="next"' not in text
        assert "Waiting for approval" not in text
