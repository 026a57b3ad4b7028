"""Every page of a small project, as its links lead there, in a real browser."""

import pytest

from benchmarks.console_project import make
from benchmarks.console_tour import kind, links, tour
from tests.support.console import serving

DEEPER = ("/hard-set?", "/production/errors?", "/releases/*?", "/releases/*/mistakes?", "/images/*/heat?", "/compare?")
SECTIONS = ("/", "/production", "/label", "/images", "/releases", "/data", "/runs", "/services", "/people")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make(tmp_path_factory.mktemp("every"), images=320, windows=12, runs=6)


def test_every_page_in_two_widths_and_themes(root, visit):
    with serving(root) as site:
        found = tour(site, visit, each=1, say=lambda line: None, looks=((1280, False), (390, True)), queries=False)
    assert found.faults() == []
    assert set(SECTIONS) <= set(found.pages)
    assert set(DEEPER) <= {kind(page, queries=False) for page in found.pages}
    assert len(found.pages) >= 18


def test_without_javascript_every_section_can_be_read(root, visit):
    with serving(root) as site:
        for path in SECTIONS:
            shown = visit(site.url + path, user=site.user, scripts=False)
            assert shown.status == 200
            assert shown.page.locator("h1").count() == 1
            assert shown.page.locator("main").inner_text().strip()


def test_pages_that_differ_by_an_id_are_of_one_kind():
    assert kind("/runs/20261121T090000-ab12?after=3") == kind("/runs/20261121T090001-ff00?after=9") == "/runs/*?after"
    assert kind("/data/upload?") == "/data/upload?"
    page = (
        '<a class="x" href="?a=1&amp;b=2">x</a><a href="https://elsewhere.example/">y</a><a href="/static/x.css">z</a>'
    )
    assert list(links(page, "/images")) == ["/images?a=1&b=2"]
