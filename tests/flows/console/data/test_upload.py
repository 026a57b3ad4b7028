"""Images sent through the browser: bounded, looked at first, taken when a person says so, deleted afterwards."""

import io
import re
import time
import uuid
import zipfile

import pytest

from flows.console.data import upload_routes
from flows.project import uploads
from flows.project.ingest import ingest_command
from flows.project.unpack import Limits
from tasks.dataset import shards
from tests.support import live_project
from tests.support.console import job_ended, serving
from tests.support.ingesting import image, manifest, noise
from tests.support.photos import encode


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return live_project.make(tmp_path_factory.mktemp("upload"))


def zipped(names: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def images(count: int, first: int = 0) -> dict[str, bytes]:
    return {f"new/{('Bag', 'bag')[n % 2]}/{n}.png": encode(noise(n)) for n in range(first, first + count)}


def send(site, files: dict[str, bytes], token: str | None = None, before: bool = True, **fields: str):
    """Send files as a browser does. before: the token comes before the files, as our form sends it."""
    if token is None:
        token = re.search(r'name="token" value="([0-9a-f.]+)"', site.get("/data/upload")[2])[1]
    mark = uuid.uuid4().hex
    parts = [f'name="{name}"\r\n\r\n{text}\r\n'.encode() for name, text in ({"token": token} | fields).items()]
    told = [f'name="files"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n" for name, content in files.items()]
    parts = parts + told if before else told + parts
    body = b"".join(f"--{mark}\r\nContent-Disposition: form-data; ".encode() + part for part in parts)
    body += f"--{mark}--\r\n".encode()
    about = {"Content_Type": f"multipart/form-data; boundary={mark}", "Origin": site.url}
    return site.ask("/data/upload", "POST", body, **about)


def left(root) -> list[str]:
    folder = root / ".evergreen/uploads"
    return [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []


def test_a_zip_is_looked_at_then_taken_then_deleted(root):
    before = {one.batch for one in shards.batches(root / "data")}
    content = images(8) | {"new/Bag/broken.png": b"\x89PNG\r\n\x1a\nnothing"}
    with serving(root) as site:
        status, headers, text = send(site, {"../../photos.zip": zipped(content)}, kind="import")
        assert status == 303, text
        page = headers["location"]
        id_ = page.rpartition("/")[2]
        job_ended(root, f"look {id_}")
        _, _, text = site.get(page)
        assert "dry run, nothing is written: took 8 new images of 2 classes" in text
        assert "look alike" in text, "Bag and bag"
        assert "note: new to the data set: class" in text
        assert "broken.png" in text
        assert {one.batch for one in shards.batches(root / "data")} == before, "nothing is taken yet"
        status, _, _ = site.post(f"{page}/take", {}, page=page)
        assert status == 303
        job_ended(root, f"take {id_}")
        _, _, text = site.get(page)
        (batch,) = {one.batch for one in shards.batches(root / "data")} - before
        assert f'href="/data/{batch}"' in text
        assert not any("source" in name for name in left(root)), "the images are deleted once they are taken"
        status, headers, _ = site.post(f"{page}/take", {"back": page}, page="/data/upload")
        assert (status, "taken%20before" in headers["set-cookie"]) == (303, True)
        assert len(shards.batches(root / "data")) == len(before) + 1, "once"
        _, _, text = site.get(f"{page}?format=csv")
        assert "Bag/broken.png" in text
        assert "class,Bag," in site.get(f"{page}?format=mix")[2]


def test_a_batch_shows_pictures_of_refused_images_and_never_their_bytes(root, tmp_path):
    rows = [
        {"path": image(tmp_path, f"{n}.png", noise(n)), "label": "Bag" if n else "x" * 300} for n in range(200, 204)
    ]
    rows.append({"path": image(tmp_path, "first.png", noise(300)), "label": "x" * 300})
    rows.append({"path": image(tmp_path, "evil.png", b"<script>alert(1)</script>"), "label": "Bag"})
    (report,) = ingest_command(root, manifest(tmp_path, rows), kind="import", commit=True, new=False)
    place = [one.reason for one in report.quarantined].index("bad_label")
    with serving(root) as site:
        _, _, text = site.get(f"/data/{report.batch}")
        assert f'src="/data/{report.batch}/refused/{place}.png"' in text
        assert "not an image format that is allowed" in text
        assert 'aria-label="no picture"' in text
        status, headers, _ = site.get(f"/data/{report.batch}/refused/{place}.png")
        assert (status, headers["content-type"]) == (200, "image/png")
        assert headers["x-content-type-options"] == "nosniff"
        evil = [one.reason for one in report.quarantined].index("unknown_format")
        assert site.get(f"/data/{report.batch}/refused/{evil}.png")[0] == 404
        assert site.get(f"/data/..%2F..%2Fx/refused/{place}.png")[0] == 404


def test_what_is_discarded_leaves_nothing(root):
    with serving(root) as site:
        _, headers, _ = send(site, {"a.png": encode(noise(90)), "b.png": encode(noise(91))}, kind="synthetic")
        page = headers["location"]
        id_ = page.rpartition("/")[2]
        job_ended(root, f"look {id_}")
        text = site.get(page)[2]
        assert "without label" in text
        assert "(2 train)" in text, "synthetic images are only trained on"
        status, headers, _ = site.post(f"{page}/discard", {}, page=page)
        assert (status, headers["location"]) == (303, "/data/upload")
        assert not any(id_ in name for name in left(root))
        assert site.get(page)[0] == 404


def test_a_form_without_a_right_token_writes_nothing(root):
    known = left(root)
    with serving(root) as site:
        good = re.search(r'name="token" value="([0-9a-f.]+)"', site.get("/data/upload")[2])[1]
        assert send(site, {"a.png": b"x"}, token="0.0")[0] == 403
        assert send(site, {"a.png": b"x"}, token=good, before=False)[0] == 403, "the token must come first"
        status, _, _ = site.ask("/data/upload", "POST", b"x", Content_Type="text/plain", Origin=site.url)
        assert status == 400
        status, _, _ = site.ask(
            "/data/upload", "POST", b"--x\r\nbroken", Content_Type="multipart/form-data; boundary=x", Origin=site.url
        )
        assert status == 400
    assert left(root) == known


def test_what_is_too_large_or_no_zip_is_refused_and_deleted(root, monkeypatch):
    known = left(root)
    with serving(root) as site:
        status, headers, _ = send(site, {"a.zip": b"not a zip"}, back="/data/upload")
        assert (status, headers["location"]) == (303, "/data/upload")
        assert "not%20a%20ZIP" in headers["set-cookie"]
        assert send(site, {"a.zip": zipped({"../x.png": b"x"})})[0] == 409
        assert send(site, {"a.zip": zipped(images(1)), "b.zip": zipped(images(1))})[0] == 409
        assert send(site, {})[0] == 409
        assert send(site, {"a.png": encode(noise(1))}, kind="everything")[0] == 409
        monkeypatch.setattr(upload_routes, "LIMITS", Limits(bytes=3000))
        assert send(site, {"a.png": bytes(5000)})[0] == 413
    assert left(root) == known


def test_a_table_describes_the_images_of_a_zip(tmp_path, monkeypatch):
    monkeypatch.setenv("EVERGREEN_STATE", str(tmp_path))
    folder = uploads.begin(tmp_path)
    (folder / "received/a.zip").write_bytes(zipped({"x/1.png": b"1"}))
    (folder / "received/labels.csv").write_text("path,label\n1.png,cat\n")
    made = uploads.complete(folder, ["a.zip", "labels.csv"], "hard", "Ann")
    source = uploads.source_of(tmp_path, made)
    assert (source.name, (source.parent / "x/1.png").read_bytes()) == ("labels.csv", b"1")
    assert uploads.read_upload(tmp_path, made.id) == made
    assert uploads.read_upload(tmp_path, "../x") is None
    assert uploads.sweep_uploads(tmp_path) == 0
    assert uploads.sweep_uploads(tmp_path, time.time() + uploads.KEPT + 60) == 1
    assert uploads.uploads(tmp_path) == []


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("C:\\photos\\a.ZIP", "a.ZIP"),
        ("../../x.png", "x.png"),
        (".hidden", "hidden"),
        ("a.png", "a-2.png"),
        ("", "file"),
    ],
)
def test_the_browsers_names_stay_in_the_folder(written, name):
    assert uploads.safe_name(written, ["A.png"]) == name


@pytest.mark.parametrize("letter", "x漢😀")
def test_a_long_name_in_any_script_can_be_written(tmp_path, letter):
    name = uploads.safe_name(f"{letter * 250}.png")
    (tmp_path / name).write_bytes(b"1")
    assert name.startswith(letter)
    assert name.endswith(".png")
