"""Whatever bytes a reader gets, it returns what they say or raises an EvergreenError: never a traceback.

`make test` tries the same few examples each time, `make faults` many and others.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from standardwebhooks import Webhook

from flows.labels.files import LabelFile, read_labels
from flows.services.webhook import verified
from tasks.common.errors import EvergreenError
from tasks.common.files import write_json
from tasks.common.params import Params, load_params
from tasks.common.schemas import QUARANTINE_REASONS
from tasks.dataset import shards
from tasks.dataset.annotation_files import AnnotationBatch, annotation_batches, write_annotation_manifest
from tasks.dataset.decode import Undecodable, decode
from tasks.labels.changes import FOLDER, read_changes
from tasks.releases import bundle
from tasks.releases.pointer import decode as decode_pointer
from tasks.releases.pointer import encode, successor
from tasks.sources.source import open_source
from tasks.sources.times import Times
from tests.faults.tier import EVERYTHING, sample
from tests.support.checkout import ROOT

fuzz = settings(
    max_examples=sample(40, 2000),
    derandomize=not EVERYTHING,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def outcome(call, *errors: type[Exception]):
    """(what `call()` returns, None), or (None, the error that it is allowed to raise)."""
    try:
        return call(), None
    except errors as error:
        return None, error


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """`whole` with a few of its bytes replaced, removed or repeated, or its end cut off."""
    edit = st.tuples(st.integers(0, max(len(whole) - 1, 0)), st.integers(0, 12), st.binary(max_size=12))

    def edited(edits) -> bytes:
        content = whole
        for at, gone, put in edits:
            content = content[:at] + put + content[at + gone :]
        return content

    cut = st.integers(0, len(whole)).map(lambda end: whole[:end])
    return st.lists(edit, min_size=1, max_size=4).map(edited) | cut | st.binary(max_size=60)


def encoded(form: str, mode: str) -> bytes:
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 24), np.uint8)).convert(mode)
    file = io.BytesIO()
    picture.save(file, form)
    return file.getvalue()


KINDS = [
    ("PNG", "RGB"),
    ("JPEG", "RGB"),
    ("JPEG", "CMYK"),
    ("WEBP", "RGBA"),
    ("TIFF", "LAB"),
    ("GIF", "P"),
    ("BMP", "1"),
]
KINDS += [("PNG", "I;16"), ("TIFF", "F"), ("PPM", "L")]


@pytest.mark.parametrize(("form", "mode"), KINDS, ids=lambda value: value)
@fuzz
@given(data=st.data())
def test_any_bytes_are_an_image_or_undecodable_for_a_reason_of_the_list(form, mode, data):
    content = data.draw(damaged(encoded(form, mode)))
    found, error = outcome(lambda: decode(content, 1_000_000), Undecodable)
    if error:
        assert error.reason in QUARANTINE_REASONS
    else:
        assert found.mode in ("L", "RGB")
        assert found.size[0] * found.size[1] <= 1_000_000


# --- files that people and programs write ----------------------------------------------------------------------

CSV = '﻿id;Label;Annotator;time\r\nabc;cat;ann;2026-01-02 03:04\r\n"d""e";"dog, big";;1.0\r\n'.encode()
LINES = (
    b'{"image": "a.png", "label": "cat", "taken_at": 1700000000}\n{"image": "b.png", "label": ["x"], "split": "val"}\n'
)
STUDIO = json.dumps(
    [
        {
            "data": {"id": "abc"},
            "annotations": [
                {
                    "result": [
                        {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ["cat"]}}
                    ],
                    "completed_by": {"email": "ann@example.org"},
                }
            ],
        }
    ]
).encode()


def parquet() -> bytes:
    file = io.BytesIO()
    columns = {"image": ["a.png", "b.png"], "label": ["cat", None], "group": [1, 2]}
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


FILES = {"labels.csv": CSV, "labels.jsonl": LINES, "export.json": STUDIO, "table.parquet": parquet()}


@pytest.mark.parametrize("name", FILES)
@fuzz
@given(data=st.data())
def test_a_file_of_labels_is_read_or_refused(tmp_path_factory, name, data):
    file = tmp_path_factory.getbasetemp() / name
    file.write_bytes(data.draw(damaged(FILES[name])))
    for task in ("multiclass", "multilabel"):
        found, error = outcome(lambda task=task: read_labels(file, task, None, "ann", Times()), EvergreenError)
        if error:
            assert str(error)
        else:
            assert isinstance(found, LabelFile)
            assert len(found.given) + found.left + len(found.refused) <= found.rows


@pytest.mark.parametrize("name", FILES)
@fuzz
@given(data=st.data())
def test_a_manifest_is_read_or_refused(tmp_path_factory, name, data):
    file = tmp_path_factory.getbasetemp() / f"manifest-{name}"
    file.write_bytes(data.draw(damaged(FILES[name])))
    for images in (False, True):
        rows, error = outcome(lambda images=images: list(open_source(file).rows(images)), EvergreenError)
        assert (error is None) != (rows is None)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SHIPPED = (ROOT / "params.yaml").read_bytes()
PLACES = [(section, key) for section, keys in yaml.safe_load(SHIPPED).items() for key in keys]


@fuzz
@given(content=damaged(SHIPPED))
@example(content=b"\xff\xfe")
def test_params_yaml_is_read_or_refused(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "params.yaml"
    file.write_bytes(content)
    found, error = outcome(lambda: load_params(file), EvergreenError)
    assert isinstance(found, Params) or "params.yaml" in str(error)


@fuzz
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_value_of_any_setting_is_taken_or_refused_by_name(tmp_path_factory, place, value):
    section, key = place
    values = yaml.safe_load(SHIPPED)
    values[section][key] = value
    file = tmp_path_factory.getbasetemp() / "params.yaml"
    file.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
    found, error = outcome(lambda: load_params(file), EvergreenError)
    assert isinstance(found, Params) or section in str(error) or "not valid YAML" in str(error)


# --- what Evergreen itself wrote, and a disk or a person changed ------------------------------------------------


def manifests(folder: Path) -> dict[Path, Callable[[], object]]:
    """File -> what reads it, in a data set with one batch of each kind."""
    data = folder / "data"
    shards.create_dataset(data, "multiclass")
    about = {"kind": "import", "shards": ["a.parquet"], "rows": 3, "offered": 4}
    shards.write_manifest(data, shards.BatchManifest(seq=1, batch="b-1", **about))
    labels = AnnotationBatch(seq=2, batch="l-1", files=["b.parquet"], rows=1)
    write_annotation_manifest(data, labels)
    write_json(folder / "tombstones.json", {"b-1": {"why": "flipped", "at": "2026-01-02", "by": "ann"}})
    write_json(folder / "bundle.json", {"schema": 1, "name": "classifier", "classes": ["a", "b"]})
    change = {"schema": 1, "number": 1, "kind": "rename", "old": ["a"], "new": ["b"], "state": "0"}
    change |= {"at": "2026-01-02T00:00:00+00:00", "by": "ann", "why": "a test"}
    write_json(data / FOLDER / "c-1.json", change)
    return {
        data / "dataset.json": lambda: shards.read_task(data),
        data / "batches/000001-b-1.json": lambda: shards.batches(data),
        data / "annotations/batches/000002-l-1.json": lambda: annotation_batches(data),
        data / FOLDER / "c-1.json": lambda: read_changes(data),
        folder / "tombstones.json": lambda: shards.read_tombstones(folder),
        folder / "bundle.json": lambda: bundle.read(folder),
    }


@pytest.mark.parametrize("number", range(6))
@fuzz
@given(data=st.data())
def test_a_manifest_of_our_own_is_read_or_named(tmp_path_factory, number, data):
    folder = tmp_path_factory.getbasetemp() / "manifests"
    file, read = list(manifests(folder).items())[number]
    read()
    content = data.draw(damaged(file.read_bytes()) | VALUES.map(lambda value: json.dumps(value).encode()))
    file.write_bytes(content)
    _, error = outcome(read, EvergreenError)
    assert error is None or file.name in str(error)
    file.unlink()


# --- what must be exactly what was written ---------------------------------------------------------------------

ABOUT = {"run_id": "r", "git_rev": "0" * 40, "bundle": "0" * 64, "by": "ann", "why": "a test"}
FIRST = successor(None, version="v0.1.0", **ABOUT)
STORED = encode(successor(FIRST, version="v0.2.0", **ABOUT))


@fuzz
@given(content=damaged(STORED))
def test_a_pointer_is_what_was_written_or_an_error(content):
    found, error = outcome(lambda: decode_pointer(content, "champion.json"), EvergreenError)
    if error:
        assert "champion.json" in str(error)
    else:
        assert content == STORED
        assert encode(found) == STORED


KEY, BODY = b"k" * 32, b'{"reason": "a camera was replaced"}'


def signed() -> dict[str, str]:
    from datetime import UTC, datetime

    now = datetime.now(UTC)
    signature = Webhook(KEY).sign("msg-1", now, BODY.decode())
    return {"webhook-id": "msg-1", "webhook-timestamp": str(int(now.timestamp())), "webhook-signature": signature}


HEADER = st.text(st.characters(codec="latin-1"), max_size=60)


@fuzz
@given(
    body=damaged(BODY) | st.just(BODY),
    changes=st.dictionaries(st.sampled_from(list(signed())), HEADER | st.none(), max_size=3),
)
def test_no_headers_and_body_but_the_signed_ones_pass_the_webhook(body, changes):
    whole = signed()
    headers = {name: value for name, value in {**whole, **changes}.items() if value is not None}
    id_, error = outcome(lambda: verified(KEY, headers, body), PermissionError)
    assert (error is None) == ((headers, body) == (whole, BODY))
    assert id_ in (None, "msg-1")


def test_the_signed_message_itself_passes():
    assert verified(KEY, signed(), BODY) == "msg-1"
