"""Traces of erased images are found in every format, and everything else stays byte for byte."""

import base64
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tasks.common.files import sha256_bytes
from tasks.erasure.files import look
from tasks.erasure.traces import Search, Traces, encoded_prints, own_names
from tests.support.labelled_project import png


def photo(seed: int, width: int = 96, height: int = 64) -> bytes:
    """A smooth picture that no other seed has."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return png(np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)))


def small_jpeg(content: bytes, side: int = 64) -> bytes:
    image = Image.open(io.BytesIO(content)).convert("RGB")
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def uri(content: bytes, kind: str = "jpeg") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


GONE, STAYS = photo(1), photo(2)
ID, OTHER = sha256_bytes(GONE), sha256_bytes(STAYS)
SEARCH = Search(Traces(ids=[ID], names=["line 1/part é 7.png", "order & 12"], pictures=encoded_prints([GONE])))


def page(*tiles: str) -> bytes:
    return f"<html><body><h1>Mistakes</h1><div class='tiles'>{''.join(tiles)}</div><p>end</p></body></html>".encode()


def tile(picture: str, said: str = "") -> str:
    return f'<div class="tile"><div class="pair"><img src="{picture}" alt=""></div><code>{said}</code></div>'


def test_a_page_loses_the_tile_by_id_by_name_and_by_its_look():
    other = tile(uri(small_jpeg(STAYS)), OTHER[:12])
    for own in (
        tile("", ID[:12]),
        tile("", "line 1/part é 7.png"),
        tile("", "/mnt/line 1/part é 7.png"),
        tile("", "order &amp; 12"),
        tile(uri(small_jpeg(GONE))),
        tile(uri(small_jpeg(GONE, 384))),
        tile(uri(GONE, "png")),
    ):
        found = look(page(other, own, other), "report.html", SEARCH)
        assert sum(found.hits.values()) == 1
        assert found.rest == page(other, '<div class="tile">erased on request</div>', other)
        assert not look(found.rest, "report.html", SEARCH).hits


def test_a_heat_map_goes_with_the_tile_that_it_is_in():
    heat = uri(small_jpeg(photo(9)))  # looks like nothing that is searched for
    own = f'<div class="tile"><img src="{uri(small_jpeg(GONE))}"><img src="{heat}"></div>'
    found = look(page(own), "report.html", SEARCH)
    assert heat.encode() not in found.rest


def test_what_only_looks_alike_stays_where_another_image_is_named():
    twin = tile(uri(small_jpeg(GONE)), OTHER[:12])
    assert look(page(twin), "report.html", SEARCH).rest == page(twin)


def test_numbers_and_longer_names_are_not_taken_for_names():
    for text in (f"{ID[:11]}", f"a{ID}", "my line 1/part é 7.png.bak", "order & 123", "preorder & 12"):
        assert not look(f"<p>{text}</p>".replace("&", "&amp;").encode(), "page.html", SEARCH).hits, text


def test_a_row_of_a_table_goes_and_a_mention_is_blanked():
    rows = f"<table><tr><td>{OTHER[:12]}</td></tr><tr><td>{ID[:12]}</td><td>too dark</td></tr></table><p>see {ID}</p>"
    found = look(rows.encode(), "page.html", SEARCH)
    assert found.rest == f"<table><tr><td>{OTHER[:12]}</td></tr></table><p>see [erased]</p>".encode()


def test_json_loses_entries_and_keeps_records():
    queue = [{"id": ID, "key": "order & 12"}, {"id": OTHER, "key": "order & 13"}]
    assert json.loads(look(json.dumps(queue).encode(), "q.json", SEARCH).rest) == queue[1:]
    window = {"measures": {"moved": [OTHER, ID], "rows": 3}, "sentence": f"like {ID[:12]}"}
    after = {"measures": {"moved": [OTHER], "rows": 3}, "sentence": "like [erased]"}
    assert json.loads(look(json.dumps(window).encode(), "w.json", SEARCH).rest) == after
    tasks = [{"data": {"image": uri(GONE, "png")}}, {"data": {"image": uri(STAYS, "png"), "evergreen_id": OTHER}}]
    assert json.loads(look(json.dumps(tasks).encode(), "tasks.json", SEARCH).rest) == tasks[1:]
    one = {"batch": {"why": "order & 12", "by": "ann"}}  # not an entry of a list: the record stays
    assert json.loads(look(json.dumps(one).encode(), "t.json", SEARCH).rest)["batch"]["by"] == "ann"


def test_a_table_keeps_its_other_records_byte_for_byte():
    text = f'id,label,comment\r\n{ID},cat,"two\r\nlines"\r\n{OTHER},dog,"a ""b"", c"\r\n'.encode()
    kept = f'id,label,comment\r\n{OTHER},dog,"a ""b"", c"\r\n'.encode()
    assert look(text, "queue.csv", SEARCH).rest == kept


def test_a_log_keeps_its_length():
    text = f"12:00 {ID} refused\n12:01 fine\n".encode()
    found = look(text, "server.log", SEARCH)
    assert len(found.rest) == len(text)
    assert ID[:12].encode() not in found.rest
    assert found.rest.endswith(b" refused\n12:01 fine\n")


def test_rows_leave_a_parquet_file_which_keeps_its_metadata():
    table = pa.table({"id": [ID, OTHER], "key": ["a", "b"], "thumbnail": [b"1", b"2"]})
    table = table.replace_schema_metadata({"evergreen.schema": "1"})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    found = look(sink.getvalue().to_pybytes(), "x.parquet", SEARCH)
    rest = pq.read_table(pa.BufferReader(found.rest))
    assert rest["id"].to_pylist() == [OTHER]
    assert rest.schema.metadata[b"evergreen.schema"] == b"1"
    assert look(found.rest, "x.parquet", SEARCH).rest == found.rest


def test_images_are_found_in_a_parquet_file_without_ids():
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image": [{"bytes": STAYS, "path": "b.png"}, {"bytes": GONE, "path": None}]}), sink)
    found = look(sink.getvalue().to_pybytes(), "traffic.parquet", SEARCH)
    assert dict(found.hits) == {"bytes": 1}
    assert pq.read_table(pa.BufferReader(found.rest))["image"].to_pylist() == [{"bytes": STAYS, "path": "b.png"}]


def test_a_picture_file_goes_as_a_whole():
    assert look(small_jpeg(GONE), "x.jpg", SEARCH).rest is None
    assert look(GONE, "x.png", SEARCH).rest is None
    assert look(STAYS, "x.png", SEARCH).rest == STAYS


def test_names_that_say_nothing_about_the_image_are_not_searched_for():
    named = {
        ("cat/3.png", "a"),
        ("3.png", "a"),
        ("order 7", "a"),
        ("dog", "a"),
        ("box/cat/13.png", "b"),
        ("3.png", "b"),
    }
    assert own_names(named, {"a"}, used={"dog"}) == (["cat/3.png", "order 7"], 2)
    assert own_names(named | {("all/cat/3.png", "b")}, {"a"})[0] == ["dog", "order 7"]
