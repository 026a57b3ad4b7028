"""The labelling pages in a real Chromium: keys, a lost connection, odd class names, small screens, no script."""

import shutil

import pytest

from flows.labels import journal
from tests.support import small_project
from tests.support.console import serving
from tests.support.label_queues import project, waiting_in
from tests.support.live_project import commit_project, samples

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(2)</script>",
    "مرحبا بالعالم",
    "'\"&amp;",
    "long " * 30,
]
COLUMNS = "id,given,predicted,confidence,quality,split,reason,path"
PAGES = ("/label", "/label/production", "/label/issues", "/label/production?view=grid", "/label/classes")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return project(tmp_path_factory.mktemp("label-browser") / "main")


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "main", symlinks=True)


def with_classes(root, names: list[str]) -> None:
    """Let the project have these classes, besides those of the model."""
    params = root / "params.yaml"
    listed = ", ".join('"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"' for name in names)
    text = params.read_text()
    assert "\n  classes:" in text
    lines = [f"  classes: [{listed}]" if line.startswith("  classes:") else line for line in text.splitlines()]
    params.write_text("\n".join(lines) + "\n")


def opened(visit, site, path: str = "/label/production"):
    """The page of one image, when its script is ready."""
    shown = visit(site.url + path, user=site.user)
    shown.page.wait_for_selector("#label-desk[data-ready]")
    return shown


def press(shown, *keys: str) -> None:
    """Press keys, each when the page shows its next image."""
    for key in keys:
        shown.page.keyboard.press(key)


def saved(shown) -> None:
    """Wait until the server has acknowledged everything."""
    shown.page.locator("#label-count:not(.warn)").wait_for()


def given(root) -> list[tuple]:
    return [(one.id, one.label, one.exclude) for one in journal.pending(root)]


def test_every_key_does_what_the_page_says(root, visit):
    entries = waiting_in(root, "production")
    with serving(root) as site:
        shown = opened(visit, site)
        box = shown.page.locator("#label-image").bounding_box()
        assert min(box["width"], box["height"]) >= 480
        press(shown, "+")
        assert shown.page.locator("#label-image").bounding_box()["width"] > 1.4 * box["width"]
        digits = [one["name"] for one in shown.page.evaluate(
            "JSON.parse(document.getElementById('label-state').textContent).items[0].classes")]  # fmt: skip
        press(shown, "2", "w", "Enter", "e", " ", "n")
        saved(shown)
        ids = [one.id for one in entries]
        suggested = [one.asked.prediction for one in entries]
        expected = [(ids[0], digits[1], False), (ids[1], suggested[1], False), (ids[2], suggested[2], False)]
        assert given(root) == [*expected, (ids[3], None, True)]
        press(shown, "u", "u", "u")  # what was passed on, what was skipped, the exclusion
        saved(shown)
        assert given(root) == expected
        assert shown.page.locator("[name=id]").get_attribute("value") == ids[3]
        press(shown, "q")
        assert "no label that could be kept" in shown.page.inner_text("#label-said")
        press(shown, "1", "w", "w")
        saved(shown)
        assert [name for name, _, _ in given(root)] == ids[:6]
        assert shown.page.inner_text("#label-count") == "6 done, 6 left for you"
        assert shown.problems == []
        shown = opened(visit, site, "/label/issues")
        issue = next(one for one in waiting_in(root, "issues"))
        press(shown, "q")
        saved(shown)
        assert given(root)[-1] == (issue.id, issue.asked.given, False)
        press(shown, "g", "l")  # a section, not a label
        shown.page.wait_for_url("**/label")


def test_a_key_that_is_held_answers_one_image(root, visit):
    with serving(root) as site:
        shown = opened(visit, site)
        for _ in range(4):
            shown.page.keyboard.down("1")
        shown.page.keyboard.up("1")
        saved(shown)
    assert len(given(root)) == 1


def test_answers_wait_in_the_browser_while_the_server_does_not_hear_them(root, visit):
    with serving(root) as site:
        shown = opened(visit, site)
        shown.page.context.set_offline(True)
        press(shown, "1", "1")
        shown.page.locator("#label-unsaved:visible").get_by_text("the server does not answer").wait_for()
        assert "2 unsaved" in shown.page.inner_text("#label-count")
        assert given(root) == []
        kept = shown.page.evaluate("Object.values(localStorage).join()")
        assert all(one.id in kept for one in waiting_in(root, "production")[:2])
        shown.page.context.set_offline(False)
        saved(shown)
        assert [name for name, _, _ in given(root)] == [one.id for one in waiting_in(root, "production")[:2]]
        assert shown.page.evaluate("localStorage.length") == 0
    with serving(root) as again:  # a server that was started again knows no token of the old page
        shown = opened(visit, again)
        again.app.state.console.key = b"another key" * 3
        press(shown, "1")
        saved(shown)
        assert len(given(root)) == 3


def test_many_classes_are_found_by_typing(root, visit):
    with_classes(root, [*HOSTILE, *(f"class {number:03}" for number in range(195)), "Ankle boot", "Bag", "Trouser"])
    first, second, third, *_ = waiting_in(root, "production")
    with serving(root) as site:
        shown = opened(visit, site)
        for letter in "class":
            press(shown, letter)
        press(shown, " ")
        assert shown.page.locator("#label-filter").input_value() == "class "
        shown.page.locator("#label-filter").fill("class 17")
        press(shown, "Enter")
        saved(shown)
        assert given(root) == [(first.id, "class 170", False)]
        press(shown, "o", "n", "e", "r", "Enter")
        saved(shown)
        assert given(root)[-1] == (second.id, HOSTILE[0], False)
        press(shown, "Shift+W")
        saved(shown)
        assert given(root)[-1] == (third.id, third.asked.prediction, False)
        assert shown.problems == []


@pytest.mark.long
def test_pages_are_whole_on_a_phone_and_in_the_dark_with_odd_names(root, visit):
    with_classes(root, [*HOSTILE, "Ankle boot", "Bag", "Trouser"])
    with serving(root) as site:
        for path in PAGES:
            for width, dark in ((390, True), (1280, False)):
                shown = visit(site.url + path, user=site.user, width=width, dark=dark)
                where = (path, width)
                assert (shown.status, shown.problems, shown.scrolls_sideways) == (200, [], False), where
                assert shown.images == shown.images_loaded, where
                small = [one for one in shown.small_targets if "Skip" not in one]
                assert (small, shown.faint_texts, shown.unnamed_images) == ([], [], 0), where
                assert shown.axe_violations == [], where
                assert all(url.startswith(site.url) for url in shown.requests), where


def test_without_scripts_a_click_saves_and_shows_the_next(root, visit):
    with serving(root) as site:
        shown = visit(site.url + "/label/production", user=site.user, scripts=False)
        first = shown.page.locator("[name=id]").get_attribute("value")
        shown.page.locator("#label-classes button").first.click()
        shown.page.get_by_text("Saved:").wait_for()
        assert [name for name, _, _ in given(root)] == [first]
        assert shown.page.locator("[name=id]").get_attribute("value") != first


def test_a_grid_is_crossed_out_by_keys_and_its_address_says_so(root, visit):
    with serving(root) as site:
        shown = visit(site.url + "/label/production?view=grid", user=site.user)
        boxes = shown.page.locator("#grid input[name=out]")
        count = boxes.count()
        boxes.first.focus()
        press(shown, " ", "ArrowRight", "x")
        assert shown.page.inner_text("#grid-count") == str(count - 2)
        address = shown.page.url
        assert address.count("%2C") == 1
        shown = visit(address, user=site.user)
        assert shown.page.locator("#grid input:checked").count() == 2
        shown.page.locator("#grid-accept").click()
        shown.page.get_by_text(f"Saved: {count - 2} images").wait_for()
        assert len(given(root)) == count - 2


def test_several_labels_are_marked_and_saved_together(tmp_path, visit):
    root = small_project.copy(tmp_path / "main", "multilabel")
    (root / "dvc.yaml").write_text("stages: {}\n")
    settings = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(settings.replace("second_look: 0.02", "second_look: 0.0"))
    commit_project(root)
    rows = [name for name, label in samples(root) if label == ["Bag"]][:3]
    lines = [f'{name},"[""Bag""]","[""Ankle boot"", ""Bag""]",0.9,0.1,train,low_quality,' for name in rows]
    (root / "artifacts/clean/queue.csv").write_text("\n".join([COLUMNS, *lines, ""]))
    first, second, third = (one for one in waiting_in(root, "issues") if one.asked.why == "looks wrong")
    with serving(root) as site:
        shown = opened(visit, site, "/label/issues")
        marked = shown.page.locator("#label-classes [aria-pressed=true]")
        while marked.count():
            marked.first.click()
        press(shown, "Enter")
        assert "Mark at least one class" in shown.page.inner_text("#label-said")
        press(shown, "1", "2", "3", "2", "Enter")
        press(shown, "x")
        press(shown, "w")
        saved(shown)
        names = [one.inner_text() for one in shown.page.locator("#label-classes span").all()]
        (a, b, c) = given(root)
        assert (a[0], len(a[1])) == (first.id, 2)
        assert b == (second.id, [], False)
        assert c == (third.id, sorted(third.asked.prediction), False)
        assert set(a[1]) < set(names)
        assert shown.problems == []
