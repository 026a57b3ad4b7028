"""The images of the console: grid and filters, one image, thumbnails, what is done with chosen ones, search."""

import csv
import io
import json
import shutil
import zipfile
from pathlib import Path
from urllib.parse import quote, urlencode

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from flows.console.images import actions, heat, neighbours
from flows.console.images.features import nearest, plane
from flows.console.images.pictures import pictures_of, prune_thumbs, thumbs_folder
from flows.console.images.view import read_view
from flows.console.index.index import index_of
from flows.console.jobs.store import newest_job
from flows.console.people import store
from flows.console.web import background
from flows.labels.exclude import correct
from flows.labels.issues_queue import find_issues
from flows.labels.journal import pending
from flows.production.finish import finish
from flows.publishing.history import open_project
from flows.repo.progress import record_unfinished
from monitoring.log.schema import log_schema
from monitoring.review.queue import CHOSEN, waiting
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tests.support import drift_windows, indexed_project, live_project
from tests.support.console import job_ended, serving
from tests.support.indexed_project import ROWS, WINDOWS, the_log
from tests.support.small_project import CLASSES
from tests.support.waiting import until

HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return indexed_project.make(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def site(root):
    index_of(root).refresh()
    with serving(root) as found:
        yield found


@pytest.fixture(scope="module")
def ids(root, site) -> list[str]:
    """Ids of test images of data/."""
    return [row.id for row in index_of(root).page({"split": ["test"]}, most=40)]


def only_logged(root: Path) -> list[str]:
    """Ids of answers whose images data/ does not hold."""
    rows = index_of(root).page({"source": ["gate", "belt"]}, most=100)
    return [row.id for row in rows if all(one.logged for one in index_of(root).of_id(row.id))]


def ended(root: Path, slot: str = "finish") -> None:
    """The newest job of a slot, when it has ended."""
    job = job_ended(root, slot)
    assert job.code == 0, job.said
    refreshed(root)


def finished(root: Path) -> None:
    """Wait until all answers are in the data set: those given while the job ran are taken by the next one."""
    ended(root)
    if pending(root):
        finish(root)
    refreshed(root)


def refreshed(root: Path) -> None:
    """Wait until the index has read everything: while the server's thread refreshes it, nobody else can."""
    until(index_of(root).refresh)


# --- bytes


def test_a_thumbnail_is_small_kept_by_browsers_and_on_disk(root, site, ids):
    status, headers, _ = site.get(f"/thumbs/{ids[0]}")
    assert (status, headers["Content-Type"]) == (200, "image/webp")
    assert headers["Cache-Control"] == "private, max-age=31536000, immutable"
    file = root / f".evergreen/console/thumbs/160/{ids[0][:2]}/{ids[0]}.webp"
    with Image.open(file) as shown:
        assert max(shown.size) <= 160
    assert site.get(f"/thumbs/{ids[0]}", If_None_Match=headers["ETag"])[0] == 304
    assert site.ask(f"/thumbs/{ids[0]}", "HEAD")[0] == 200
    assert site.get(f"/thumbs/{only_logged(root)[0]}")[0] == 200  # an answer of production
    assert site.get(f"/thumbs/{ids[0]}?side=480")[0] == 200
    assert site.get(f"/thumbs/{ids[0]}?side=99999")[0] == 404


@pytest.mark.parametrize("name", ["0" * 64, "x", "..%2f..%2fparams.yaml", "A" * 64])
def test_an_id_that_names_no_image_is_not_found(site, name):
    for path in (f"/thumbs/{name}", f"/images/{name}", f"/images/{name}/file", f"/images/{name}/why"):
        assert site.get(path)[0] == 404


def test_the_file_is_the_image_itself(root, site, ids):
    status, headers, _ = site.get(f"/images/{ids[0]}/file")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert int(headers["Content-Length"]) > 100
    assert headers["ETag"] == f'"{ids[0]}"'
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_other_formats_are_shown_as_png_and_what_cannot_be_decoded_has_a_sign(root, site):
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20), (9, 99, 9)).save(buffer, "TIFF")
    table = drift_windows.window_table(7, 2, source=HOSTILE)
    images = [buffer.getvalue(), b"no image at all"]
    for name, values in (("image", images), ("id", [sha256_bytes(one) for one in images]), ("thumbnail", [None, None])):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    the_log(root).append(table.cast(log_schema("multiclass")))
    index_of(root).refresh()
    status, headers, _ = site.get(f"/images/{sha256_bytes(images[0])}/file")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    for path in (f"/thumbs/{sha256_bytes(images[1])}", f"/images/{sha256_bytes(images[1])}/file"):
        status, headers, _ = site.get(path)
        assert (status, headers["Content-Type"]) == (200, "image/svg+xml")
        assert headers["Cache-Control"] == "no-store"
    status, _, text = site.get(f"/images/{sha256_bytes(images[1])}")
    assert status == 200
    assert "cannot be decoded" in text
    assert HOSTILE not in text


# --- the grid


def test_an_address_is_the_whole_state():
    view = read_view("predicted=Bag&predicted=&source=a%26b&sort=unfamiliar&after=12&view=map&x=1")
    assert view.filters == {"predicted": ["Bag", None], "source": ["a&b"]}
    assert read_view(view.query()) == view
    assert view.without("predicted", None) == "/images?predicted=Bag&source=a%26b&sort=unfamiliar&view=map"
    wrong = read_view("sort=drop+table&after=-1&view=x")
    assert wrong == read_view("")
    assert read_view("window-is=%20w1%20&batch-is=").filters == {"window": ["w1"]}


@pytest.mark.parametrize("scripts", [True, False])
def test_filters_change_the_address_and_the_images(root, visit, site, scripts):
    shown = visit(f"{site.url}/images", user=site.user, scripts=scripts)
    box = shown.page.locator("#filters input[name=source][value=belt]")
    if not box.is_visible():
        shown.page.locator("#facet-source summary").click()
    box.check()
    if scripts:
        shown.page.wait_for_url("**source=belt**")
        shown.page.get_by_text(f"{ROWS} of").wait_for()
    else:
        shown.page.get_by_role("button", name="Show").click()
    assert "source=belt" in shown.page.url
    assert shown.page.locator("#grid figure").count() == ROWS
    assert shown.page.locator("#found").inner_text().startswith(f"{ROWS} of")
    shown.page.locator("#found a.tag").click()
    shown.page.locator("a[rel=next]").wait_for()
    assert shown.problems == []


def test_pages_follow_one_another(root, site):
    seen, url = [], "/images?origin=import&sort=oldest"
    while url:
        _, _, text = site.get(url)
        seen += [part[:64] for part in text.split('name="id" value="')[1:]]
        rest = text.partition('rel="next"')[0].rpartition('href="')[2].partition('"')[0]
        url = rest.replace("&amp;", "&") if 'rel="next"' in text else None
    assert len(seen) == len(set(seen)) == 144


@pytest.mark.long
def test_the_grid_in_every_width_and_theme(visit, site, root):
    index_of(root).refresh()
    for path in ("/images", "/images?view=map", f"/images?source={quote(HOSTILE)}"):
        for width, dark in ((390, True), (1440, False)):
            shown = visit(f"{site.url}{path}", user=site.user, width=width, dark=dark)
            assert shown.status == 200
            assert shown.problems == []
            assert not shown.scrolls_sideways
            assert shown.faint_texts == []
            assert [one for one in shown.small_targets if "Skip" not in one] == []
            assert shown.unnamed_images == 0
            assert shown.axe_violations == []
            assert all(url.startswith(site.url) for url in shown.requests)
            assert shown.page.evaluate("document.querySelectorAll('*').length") < 1500


def test_a_range_is_ticked_by_shift_and_counted(visit, site):
    shown = visit(f"{site.url}/images?origin=import", user=site.user)
    boxes = shown.page.locator("#grid input.pick")
    boxes.nth(2).click()
    boxes.nth(6).click(modifiers=["Shift"])
    assert shown.page.locator("#ticked").inner_text() == "(5)"
    shown.page.keyboard.press("j")
    shown.page.locator("#grid [data-item]").nth(0).focus()
    shown.page.keyboard.press("Space")
    assert shown.page.locator("#ticked").inner_text() == "(6)"
    shown.page.get_by_role("button", name="Tick all here").click()
    assert shown.page.locator("#ticked").inner_text() == "(50)"


def test_a_lasso_chooses_points_of_the_map(visit, site):
    shown = visit(f"{site.url}/images?view=map&origin=production+log", user=site.user)
    canvas = shown.page.locator("#map-canvas")
    canvas.wait_for()
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    mouse, left, top = shown.page.mouse, box["x"] + 6, box["y"] + 6
    right, low = box["width"] - 12, box["height"] - 12
    mouse.move(left, top)
    mouse.down()
    for x, y in ((right, 0), (right, low), (0, low), (0, 2)):
        mouse.move(left + x, top + y)
    mouse.up()
    shown.page.locator("#map-chosen figure").first.wait_for()
    count = shown.page.locator("#map-chosen input[name=id]").count()
    assert count >= ROWS * WINDOWS
    assert shown.page.locator("#ticked").inner_text() == f"({count})"
    assert shown.problems == []


def test_the_map_is_made_once_and_has_at_most_two_thousand_points(root, site):
    path = "/images/map.json?origin=production+log&source=gate"
    found = json.loads(site.get(path)[2])
    assert len(found["points"]) == 2 * ROWS
    assert all(0 <= x <= 1 and 0 <= y <= 1 for _, x, y, _ in found["points"])
    kept = {file: file.stat().st_mtime_ns for file in (root / ".evergreen/console/maps").iterdir()}
    assert json.loads(site.get(path)[2]) == found
    assert {file: file.stat().st_mtime_ns for file in (root / ".evergreen/console/maps").iterdir()} == kept
    nothing = json.loads(site.get("/images/map.json?source=nowhere")[2])
    assert (nothing["points"], "No features" in nothing["said"]) == ([], True)


# --- what is done with chosen images


def test_chosen_images_wait_for_labels(root, site, ids):
    logged = only_logged(root)[:2]
    status, headers, _ = site.post("/images/queue", {"id": [*logged, ids[0]], "back": "/images"}, "/images")
    assert (status, headers["Location"]) == (303, "/images")
    assert {entry.id for entry in waiting(the_log(root)) if entry.why == CHOSEN} == set(logged)
    params, _ = open_project(root)
    (issue,) = [one for one in find_issues(root, params) if one.why == CHOSEN]
    assert (issue.id, issue.detail) == (ids[0], "chosen by a tester")
    site.post("/images/queue", {"id": [*logged, ids[0]]}, "/images")
    assert len([entry for entry in waiting(the_log(root)) if entry.why == CHOSEN]) == 2
    correct(root, ids[0], "Bag", "seen")
    assert [one.id for one in find_issues(root, params) if one.why == CHOSEN] == []


def test_everything_that_fits_is_chosen_at_once_or_refused(root, site):
    index = index_of(root)
    view = read_view("source=belt")
    assert {row.facets["source"] for row in actions.chosen(index, view, [], True)} == {"belt"}
    with pytest.raises(EvergreenError, match="at most 3 go at once"):
        actions.chosen(index, view, [], True, most=3)
    with pytest.raises(EvergreenError, match="No image is chosen"):
        actions.chosen(index, view, ["../x", "0" * 64], False)
    status, headers, _ = site.post("/images/queue", {"back": "/images?source=belt"}, "/images")
    assert (status, headers["Location"]) == (303, "/images?source=belt")
    assert "No%20image%20is%20chosen" in headers["Set-Cookie"]


def test_what_a_person_says_about_images_changes_the_data_set(root, visit, site, ids):
    out, named, seen = ids[5], ids[7], ids[9]
    before = index_of(root).of_id(named)[0].true
    new = "Bag" if before != "Bag" else "Trouser"
    _, headers, _ = site.post("/images/exclude", {"id": out, "back": "/images"}, "/images")
    assert "Say%20why" in headers["Set-Cookie"]
    assert site.post(f"/images/{named}/label", {"label": "Boat"}, f"/images/{named}")[0] == 409
    assert pending(root) == []
    shown = visit(f"{site.url}/images/{seen}", user=site.user, scripts=False)  # all of it without scripts
    shown.page.get_by_role("link", name="Hop by hop").click()
    assert "first given" in shown.page.inner_text("main")
    shown.page.get_by_role("link", name="Back to the image").click()
    shown.page.get_by_text("Give another label").click()
    shown.page.locator("select[name=label]").select_option("Bag")
    shown.page.get_by_role("button", name="Save the label").click()
    shown.page.locator(".toast.good").wait_for()
    site.post("/images/exclude", {"id": out, "why": "a finger", "back": "/images"}, "/images")
    site.post(f"/images/{named}/label", {"label": new, "why": "look"}, f"/images/{named}")
    finished(root)
    assert index_of(root).of_id(out)[0].state == "excluded"
    assert index_of(root).of_id(named)[0].true == new
    assert index_of(root).of_id(seen)[0].true == "Bag"
    assert "reviewer a tester: exclude (a finger)" in site.get(f"/images/{out}/why")[2]
    site.post(f"/images/{out}/include", {"why": "a part of it"}, f"/images/{out}")
    finished(root)
    assert index_of(root).of_id(out)[0].state == "in use"
    site.post(f"/images/{named}/undo", {"why": "no"}, f"/images/{named}")
    ended(root, f"undo {named[:12]}")
    assert index_of(root).of_id(named)[0].true == before


def test_what_a_role_may_not_do_is_neither_shown_nor_done(root, site, ids):
    words = "four words that rhyme"
    for role in ("viewer", "labeller"):
        store.join(root, store.add(root, role, role, "Bea"), words, words)
        body = urlencode({"name": role, "passphrase": words}).encode()
        _, headers, _ = site.ask("/sign-in", "POST", body, Authorization="", Origin=site.url, Accept="text/html")
        cookie = headers["Set-Cookie"].partition(";")[0]
        signed_in = {"Authorization": "", "Cookie": cookie}
        page = site.get("/images", **signed_in)[2] + site.get(f"/images/{ids[4]}", **signed_in)[2]
        assert ("Ask for labels" in page) == (role == "labeller")
        assert "Exclude" not in page
        assert "Forget" not in page
        for path in ("exclude", f"{ids[4]}/undo", f"{ids[4]}/forget", *(["queue"] if role == "viewer" else [])):
            fields = {"id": ids[4], "why": "x", "typed": ids[4][:8]}
            assert site.post(f"/images/{path}", fields, "/images", **signed_in)[0] == 403, (role, path)
    (root / ".evergreen/people.json").unlink()
    assert pending(root) == []


def test_tables_and_files_are_taken_home(root, site, ids):
    _, headers, text = site.get("/images?source=belt&format=csv")
    assert headers["Content-Disposition"] == 'attachment; filename="images.csv"'
    rows = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert len(rows) == ROWS
    assert {row["source"] for row in rows} == {"belt"}
    _, _, text = site.post("/images/export", {"as": "csv", "id": ids[:2]}, "/images")
    assert [row["id"] for row in csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))] == ids[:2]
    rows = actions.chosen(index_of(root), read_view(""), ids[:2], False)
    content = b"".join(actions.zipped(pictures_of(root), rows, b"id\n"))
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        assert file.testzip() is None
        assert sorted(file.namelist()) == ["images.csv", *sorted(f"images/{one}.png" for one in ids[:2])]
        assert sha256_bytes(file.read(f"images/{ids[0]}.png")) == ids[0]
    assert site.post("/images/export", {"as": "zip", "id": ids[:2]}, "/images")[1]["Content-Type"] == "application/zip"


# --- one image


def test_the_page_of_an_image_says_what_is_known(root, visit, site, ids):
    logged = only_logged(root)[0]
    for image in (ids[1], logged):
        for width, dark in ((390, True), (1440, False)):
            shown = visit(f"{site.url}/images/{image}", user=site.user, width=width, dark=dark)
            shown.page.locator("#like-part .tiles, #like-part p").first.wait_for()
            shown.page.locator("#why-part li").first.wait_for()
            assert shown.problems == []
            assert not shown.scrolls_sideways
            assert shown.faint_texts == []
            assert [one for one in shown.small_targets if "Skip" not in one] == []
            assert shown.page.locator("h1").count() == 1
            assert shown.axe_violations == []
            assert image in shown.text
    assert shown.page.locator("table.bars tbody tr").count() == 3  # the probabilities of an answer
    assert shown.page.locator("#like-part figure").count() == 12
    assert site.get(f"/images/{logged}?format=csv")[2].count(logged) >= 1
    assert "Bag," in site.get(f"/images/{logged}?format=csv&table=probabilities")[2]
    zoom = shown.page.locator("#zoom")
    zoom.click()
    assert zoom.get_attribute("aria-pressed") == "true"
    assert shown.page.locator("#picture").bounding_box()["width"] > 400


def test_forgetting_needs_the_start_of_the_id_and_a_reason(root, site):
    image = only_logged(root)[-1]
    site.get(f"/thumbs/{image}")
    assert image in site.get("/images/map.json?origin=production+log")[2]
    for fields, said in (({"typed": "x", "why": "asked"}, "Type"), ({"typed": image[:8]}, "Say%20why")):
        _, headers, _ = site.post(f"/images/{image}/forget", fields, f"/images/{image}")
        assert said in headers["Set-Cookie"]
    assert newest_job(root, f"forget {image[:12]}") is None
    status, headers, _ = site.post(f"/images/{image}/forget", {"typed": image[:8], "why": "asked"}, f"/images/{image}")
    assert (status, headers["Location"].startswith("/jobs/")) == (303, True)
    ended(root, f"forget {image[:12]}")
    assert not list((root / ".evergreen/console").rglob(f"*{image}*"))
    kept = [file for file in (root / ".evergreen/console").rglob("*") if file.is_file()]
    assert kept
    assert not [file for file in kept if image.encode() in file.read_bytes()]
    assert site.get(f"/images/{image}")[0] == 404
    assert site.get(f"/thumbs/{image}")[0] == 404


def test_where_the_model_looked_is_computed_once_and_shown(root, site, ids):
    _, releases = open_project(root)
    live = releases.live()
    heat.compute(root, ids[2])
    content = heat.picture(root, live, ids[2])
    with Image.open(io.BytesIO(content)) as shown:
        assert shown.size == (480, 480)
    _, _, text = site.get(f"/images/{ids[2]}/heat", HX_Request="true")
    assert f"/images/{ids[2]}/heat.webp" in text
    assert "Where v0.1.0 looked for" in text
    assert site.get(f"/images/{ids[2]}/heat.webp")[1]["Content-Type"] == "image/webp"
    assert site.get(f"/images/{ids[3]}/heat.webp")[0] == 404
    (root / "artifacts/train_backbone").rename(root / "artifacts/elsewhere")
    heat.compute(root, ids[3])
    (root / "artifacts/elsewhere").rename(root / "artifacts/train_backbone")
    assert "only its exported model" in heat.heat_of(root).look(ids[3], live).said
    page = site.get(f"/images/{ids[3]}/heat")[2]  # the part that is fetched again must not take the heading away
    assert page.index("<h1>Where the model looked</h1>") < page.index('<div id="heat">')
    assert "<h1" not in site.get(f"/images/{ids[3]}/heat", HX_Request="true")[2]


def test_a_picture_that_could_not_be_computed_is_tried_again_by_the_next_server(root, ids, tmp_path):
    live = open_project(root)[1].live()
    maker = heat.HeatMaker(tmp_path)  # a folder without a project: the child fails
    assert maker.look(ids[2], live).state == "working"
    until(lambda: maker.look(ids[2], live).said == heat.FAILED)
    assert not list(tmp_path.rglob("*.json"))
    maker._working |= {str(number) for number in range(heat.MOST)}
    assert maker.look(ids[3], live) == heat.Heat("none", heat.BUSY)


# --- search


def test_search_leads_to_the_one_thing_that_is_meant(root, site, ids):
    window = drift_windows.times(1)[2]
    row = index_of(root).of_id(ids[0])[0]
    record_unfinished(root, root / ".evergreen/runs/20260105T08-failed", "failed", "no memory")
    for text, place in (
        (ids[0][:10], f"/images/{ids[0]}"), (row.path, f"/images/{ids[0]}"), (window, f"/production/{window}"),
        ("v0.1.0", "/releases/v0.1.0"), ("0.1.0", "/releases/v0.1.0"),
        ("20260105T08-failed", "/runs/20260105T08-failed"), ("ankle", "/images?predicted=Ankle+boot"),
        ("belt", "/images?source=belt"), ("b-1", "/data/b-1"),
    ):  # fmt: skip
        status, headers, _ = site.get(f"/search?q={quote(text)}")
        assert (status, headers.get("Location")) == (303, place), text
    assert "source,gate,/images?source=gate" in site.get("/search?q=a&format=csv")[2]
    status, _, text = site.get(f"/search?q={quote('a')}")
    assert status == 200
    assert "/images?source=gate" in text
    status, _, text = site.get(f"/search?q={quote(HOSTILE)}x")
    assert status == 200
    assert HOSTILE not in text
    assert "Nothing is called" in text
    assert site.get("/search")[0] == 200


# --- cores


def test_a_plane_keeps_groups_apart_and_neighbours_are_nearest_first():
    rng = np.random.default_rng(0)
    features = np.concatenate([rng.normal(0, 0.1, (30, 8)), rng.normal(3, 0.1, (30, 8))]).astype(np.float32)
    places = plane(features)
    assert places.shape == (60, 2)
    assert places.min() >= 0
    assert places.max() <= 1
    assert abs(places[:30, 0].mean() - places[30:, 0].mean()) > 0.7
    assert plane(features[:1]).shape == (1, 2)
    found = nearest(np.eye(3, dtype=np.float32), np.array([1, 0.5, 0], np.float32), 2)
    assert [row for row, _ in found] == [0, 1]
    assert found[0][1] > found[1][1]
    assert nearest(np.empty((0, 3), np.float32), np.ones(3, np.float32), 2) == []


def test_sketches_find_the_nearest_of_many():
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (40, 256))
    features = (centres[rng.integers(0, 40, 4000)] + rng.normal(0, 0.5, (4000, 256))).astype(np.float16)
    maps = {"a": features[:2500], "b": features[2500:], "other network": rng.normal(0, 1, (9, 8))}
    wanted = features[7].astype(np.float32)
    exact = {row for row, _ in nearest(features.astype(np.float32), wanted, 12)}
    found = neighbours.Sketches().nearest(maps, wanted, neighbours.AGAIN)
    assert found[0] == ("a", 7)
    assert exact <= {row if shard == "a" else row + 2500 for shard, row in found}
    kept, looks = neighbours.Sketches(), []
    for key in [*range(neighbours.KEPT + 1), 0, neighbours.KEPT]:
        assert kept.remembered((key,), lambda key=key: looks.append(key) or [key]) == [key]
    assert looks == [*range(neighbours.KEPT + 1), 0], "the oldest is forgotten, the newest is not"
    assert neighbours.sketch(np.full((2, 8), np.nan)).tolist() == [[0.0] * neighbours.SKETCH] * 2


def test_old_thumbnails_go_when_they_take_too_much(root, site, ids):
    for image in ids[:3]:
        site.get(f"/thumbs/{image}")
    sizes = [file.stat().st_size for file in thumbs_folder(root).rglob("*.webp")]
    assert prune_thumbs(root) == 0
    assert prune_thumbs(root, sum(sizes) - 1) == 1
    assert prune_thumbs(root, 0) == len(sizes) - 1


def test_the_web_server_keeps_the_index_fresh_and_thumbnails_few(root, site):
    large = thumbs_folder(root) / "160/00" / f"{'0' * 64}.webp"
    large.parent.mkdir(parents=True, exist_ok=True)
    with open(large, "wb") as file:
        file.truncate(2 * 10**9 + 1)  # sparse: it takes no room
    threads = background(site.app)
    for thread in threads:
        thread.start()
    until(lambda: not large.exists())
    until(lambda: index_of(root)._kept_fresh)
    site.app.state.console.stopping.set()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), thread.name
    site.app.state.console.stopping.clear()


# --- other projects


def test_hostile_classes_many_classes_and_several_labels(tmp_path, visit):
    root = live_project.make(tmp_path, "multilabel")
    text = (root / "params.yaml").read_text()
    names = [HOSTILE, "נעל", *(f"class {number}" for number in range(200)), *CLASSES]
    (root / "params.yaml").write_text(text.replace("  classes: null", f"  classes: {json.dumps(names)}"))
    assert json.dumps(HOSTILE)[1:-1] in (root / "params.yaml").read_text()
    index = index_of(root)
    index.refresh()
    (row,) = index.page({"true": ["Bag + Trouser"]}, most=1)
    with serving(root) as site:
        for path in (f"/images/{row.id}", "/images?true=Bag+%2B+Trouser"):
            for width, dark in ((390, False), (1440, True)):
                shown = visit(f"{site.url}{path}", user=site.user, width=width, dark=dark)
                assert shown.problems == []
                assert not shown.scrolls_sideways
                assert shown.axe_violations == []
                assert shown.page.evaluate("document.querySelectorAll('*').length") < 1500
        assert site.post(f"/images/{row.id}/label", {"label": [HOSTILE, "Bag", ""]}, f"/images/{row.id}")[0] == 303
        finished(root)
        assert index.of_id(row.id)[0].true == f"{HOSTILE} + Bag"
        shown = visit(f"{site.url}/images/{row.id}", user=site.user)
        assert HOSTILE in shown.text
        assert shown.problems == []


def test_a_project_without_images_says_what_to_do(tmp_path):
    root = live_project.make(tmp_path)
    shutil.rmtree(root / "data")
    with serving(root) as site:
        status, _, text = site.get("/images")
        assert status == 200
        assert "There are no images yet" in text
        assert json.loads(site.get("/images/map.json")[2])["points"] == []
