"""Folders and manifests become one stream of typed rows; unusable rows and sources give the reason."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tasks.common.errors import DataError
from tasks.common.schemas import QUARANTINE_REASONS, label_type
from tasks.sources import fields
from tasks.sources.fields import Unusable
from tasks.sources.records import Columns
from tasks.sources.source import open_source
from tasks.sources.times import Times
from tests.support.photos import encode


def png(shade: int) -> bytes:
    return encode(Image.new("L", (8, 8), shade))


def tree(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content) if isinstance(content, bytes) else file.write_text(content)
    return root


def rows(path: Path, **columns):
    return list(open_source(path, Columns(**columns)).rows())


def reasons(path: Path, **columns) -> list[str | None]:
    """For each row why it cannot be read; None: it can."""
    found = []
    for row in rows(path, **columns):
        try:
            row.read()
            found.append(None)
        except Unusable as error:
            found.append(error.reason)
    return found


def test_class_folders_label_by_the_first_folder_at_any_depth(tmp_path):
    tree(tmp_path, {"cat/a.png": png(1), "cat/deep/er/b.png": png(2), "dog/c.png": png(3)})
    found = rows(tmp_path)
    assert [(r.path, r.label) for r in found] == [
        ("cat/a.png", "cat"),
        ("cat/deep/er/b.png", "cat"),
        ("dog/c.png", "dog"),
    ]
    assert found[1].read() == png(2)
    assert {r.split for r in found} == {()}


def test_split_folders_give_the_split_and_val_means_calibration(tmp_path):
    names = ("train/cat/a.png", "val/cat/b.png", "test/dog/c.png", "hard/dog/d.png")
    tree(tmp_path, {name: png(i) for i, name in enumerate(names)})
    assert {r.path: (r.label, r.split) for r in rows(tmp_path)} == {
        "train/cat/a.png": ("cat", ("train",)),
        "val/cat/b.png": ("cat", ("calibration",)),
        "test/dog/c.png": ("dog", ("test",)),
        "hard/dog/d.png": ("dog", ("hard",)),
    }


def test_train_rows_may_go_to_calibration_if_that_folder_is_missing(tmp_path):
    tree(tmp_path, {"train/cat/a.png": png(1), "test/cat/b.png": png(2)})
    assert [r.split for r in rows(tmp_path)] == [("test",), ("train", "calibration")]


def test_a_class_named_test_next_to_others_is_a_class(tmp_path):
    tree(tmp_path, {"test/a.png": png(1), "production/b.png": png(2)})
    assert [(r.label, r.split) for r in rows(tmp_path)] == [("production", ()), ("test", ())]


def test_a_flat_folder_is_unlabelled_and_junk_is_skipped(tmp_path):
    tree(tmp_path, {"b.png": png(1), "a.jpg": png(2), ".DS_Store": b"x", "Thumbs.db": b"x", "__MACOSX/c.png": b"x"})
    assert [(r.path, r.label) for r in rows(tmp_path)] == [("a.jpg", None), ("b.png", None)]


def test_order_does_not_depend_on_the_order_of_creation(tmp_path):
    names = [f"{c}/{n}.png" for c in "ba" for n in (10, 9, 1)]
    one, two = (tree(tmp_path / str(i), {n: png(1) for n in order}) for i, order in enumerate((names, names[::-1])))
    assert [r.path for r in rows(one)] == [r.path for r in rows(two)] == sorted(names)


CSV = """path,class,Camera,date,slice_light,slice_site,annotator,split
i/a.png,cat,c1,2024-05-31T12:00:00+02:00,dim,,anna,train
i/b.png,dog,,2024-05-31,,x,,validation
i/c.png,,c1,,,,,
"""


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_columns_are_recognised_and_typed(tmp_path, delimiter):
    tree(tmp_path, {f"i/{n}.png": png(i) for i, n in enumerate("abc")})
    (tmp_path / "labels.csv").write_text("\ufeff" + CSV.replace(",", delimiter))
    a, b, c = rows(tmp_path / "labels.csv")
    assert (a.path, a.label, a.source, a.annotator, a.split) == ("i/a.png", "cat", "c1", "anna", ("train",))
    assert a.taken_at == datetime(2024, 5, 31, 10, tzinfo=UTC)
    assert a.slices == (("light", "dim"),)
    assert (b.source, b.taken_at, b.split) == (None, datetime(2024, 5, 31, tzinfo=UTC), ("calibration",))
    assert b.slices == (("site", "x"),)
    assert (c.label, c.taken_at, c.annotator, c.split, c.slices) == (None, None, None, (), ())
    assert [r.read() for r in (a, b, c)] == [png(0), png(1), png(2)]
    assert a.where == "labels.csv line 2"


def test_a_folder_with_a_manifest_is_read_by_the_manifest(tmp_path):
    tree(tmp_path, {"images/a.png": png(1), "labels.csv": "file,label\nimages/a.png,cat\n", "notes.csv": "a,b\n1,2\n"})
    assert [(r.path, r.label) for r in rows(tmp_path)] == [("images/a.png", "cat")]


def test_a_folder_with_a_manifest_that_lacks_a_label_column_is_not_taken_for_a_class(tmp_path):
    tree(tmp_path, {"images/a.png": png(1), "labels.csv": "file,kind\nimages/a.png,cat\n"})
    with pytest.raises(DataError, match=r"no label column; columns found: 'file', 'kind'"):
        open_source(tmp_path)


def test_two_manifests_are_refused(tmp_path):
    tree(tmp_path, {"a.csv": "file,label\n", "b.jsonl": '{"file": "x", "label": "y"}\n'})
    with pytest.raises(DataError, match=r"2 manifests \(a.csv, b.jsonl\): give the path of one"):
        open_source(tmp_path)


def test_jsonl_with_lists_of_labels_and_slices(tmp_path):
    line = {"image": "a.png", "labels": ["x", "y"], "slice": [{"name": "light", "value": "dim"}], "time": 1717156800}
    tree(tmp_path, {"a.png": png(1), "m.jsonl": json.dumps(line) + "\n\n"})
    (row,) = rows(tmp_path / "m.jsonl")
    assert row.label == ["x", "y"]
    assert row.slices == (("light", "dim"),)
    assert row.taken_at == datetime(2024, 5, 31, 12, tzinfo=UTC)


def hugging_face(file: Path, labels: list, kind: pa.DataType, feature: dict, paths: list | None = None) -> Path:
    paths = paths or ["x.png"] * len(labels)
    image = pa.array([{"bytes": png(i), "path": p} for i, p in enumerate(paths)])
    features = {"img": {"_type": "Image"}, "species": feature}
    schema = pa.schema([("img", image.type), ("species", kind)]).with_metadata(
        {"huggingface": json.dumps({"info": {"features": features}})}
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table([image, pa.array(labels, kind)], schema=schema), file)
    return file


CLASS_LABEL = {"_type": "ClassLabel", "names": ["cat", "dog"]}


def test_class_label_numbers_become_names_and_the_one_class_label_column_is_the_label(tmp_path):
    file = hugging_face(tmp_path / "x.parquet", [1, 0, None, -1, 2], pa.int64(), CLASS_LABEL)
    found = rows(file)
    assert [r.label for r in found[:4]] == ["dog", "cat", None, None]
    with pytest.raises(Unusable, match="bad_label: 2, of 2 classes"):
        fields.label(found[4].label, "multiclass", None)
    assert [r.read() for r in found] == [png(i) for i in range(5)]


@pytest.mark.parametrize("feature", [{"_type": "List", "feature": CLASS_LABEL}, [CLASS_LABEL]])
def test_lists_of_class_labels(tmp_path, feature):
    file = hugging_face(tmp_path / "x.parquet", [[1, 0], [], None], pa.list_(pa.int64()), feature)
    assert [fields.label(r.label, "multilabel", None) for r in rows(file)] == [["cat", "dog"], [], None]


def test_a_hugging_face_repository_gives_splits_by_file_name(tmp_path):
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test"):
        hugging_face(tmp_path / "data" / f"{name}.parquet", [0], pa.int64(), CLASS_LABEL)
    assert [r.split for r in rows(tmp_path)] == [("test",), ("train",), ("train",), ("calibration",)]


def test_paths_stored_with_bytes_reveal_nothing_about_the_machine(tmp_path):
    paths = ["a/b.png", "/home/me/secret/c.png", "../../d.png"]
    file = hugging_face(tmp_path / "x.parquet", [0, 0, 0], pa.int64(), CLASS_LABEL, paths)
    assert [r.path for r in rows(file)] == ["a/b.png", "c.png", "d.png"]


def test_parquet_of_paths_and_nanosecond_times(tmp_path):
    table = pa.table(
        {"path": ["a.png"], "label": [7], "taken_at": pa.array([1_717_156_800_000_000_123], pa.timestamp("ns"))}
    )
    pq.write_table(table, tree(tmp_path, {"a.png": png(5)}) / "m.parquet")
    (row,) = rows(tmp_path / "m.parquet")
    assert (row.path, row.read(), row.label) == ("a.png", png(5), 7)
    assert row.taken_at == datetime(2024, 5, 31, 12, tzinfo=UTC)


def test_rows_without_images_do_not_read_their_bytes(tmp_path):
    file = hugging_face(tmp_path / "x.parquet", [1, 0], pa.int64(), CLASS_LABEL)
    assert [(r.label, r.image) for r in open_source(file).rows(images=False)] == [("dog", None), ("cat", None)]


def test_hostile_paths_are_refused_row_by_row(tmp_path):
    root = tree(tmp_path / "root", {"ok.png": png(1), "folder/x.png": png(2)})
    outside = tree(tmp_path / "outside", {"secret.png": png(3)})
    (root / "out.png").symlink_to(outside / "secret.png")
    (root / "in.png").symlink_to(root / "ok.png")
    (root / "outdir").symlink_to(outside)
    (root / "loop.png").symlink_to(root / "loop.png")
    os.mkfifo(root / "pipe.png")
    written = {
        "ok.png": None,
        str(root / "ok.png"): None,
        "in.png": None,
        "../outside/secret.png": "outside_root",
        "folder/../ok.png": "outside_root",
        str(outside / "secret.png"): "outside_root",
        "/etc/passwd": "outside_root",
        "out.png": "outside_root",
        "outdir/secret.png": "outside_root",
        "loop.png": "missing_file",
        "pipe.png": "missing_file",
        "folder": "missing_file",
        "nothing.png": "missing_file",
        "a\0b.png": "missing_file",
        "x" * 5000: "missing_file",
        "https://example.org/a.png": "missing_file",
        "..\\..\\secret.png": "missing_file",
        "": "missing_file",
    }
    lines = (json.dumps({"path": path, "label": "x"}) for path in written)
    (root / "m.jsonl").write_text("\n".join(lines))
    assert dict(zip(written, reasons(root / "m.jsonl"), strict=True)) == written


def test_links_in_folders_are_followed_only_inside_the_root(tmp_path):
    root = tree(tmp_path / "root", {"cat/a.png": png(1)})
    outside = tree(tmp_path / "outside", {"b.png": png(2)})
    (root / "cat/in.png").symlink_to("a.png")
    (root / "cat/out.png").symlink_to(outside / "b.png")
    (root / "dog").symlink_to(outside)
    found = dict(zip([r.path for r in rows(root)], reasons(root), strict=True))
    assert found == {"cat/a.png": None, "cat/in.png": None, "cat/out.png": "outside_root", "dog": "outside_root"}


def test_a_file_name_that_is_not_utf8_can_be_read_and_stored(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / os.fsdecode(b"\xff.png")).write_bytes(png(1))
    (tmp_path / os.fsdecode(b"\xfe")).mkdir()
    (tmp_path / os.fsdecode(b"\xfe") / "b.png").write_bytes(png(2))
    first, second = rows(tmp_path)
    assert (first.path, first.read()) == ("cat/?.png", png(1))
    assert pa.array([first.path, second.path]).to_pylist() == [first.path, second.path]
    with pytest.raises(Unusable, match="bad_label"):
        fields.label(second.label, "multiclass", None)


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ({}, "", "is empty: expected images in class folders"),
        ({"cat/": b""}, "nothing", "does not exist"),
        ({"a.txt": b"x", "b.pdf": b"x", "c.txt": b"x"}, "", r"no images \(found 1 .pdf, 2 .txt\)"),
        ({"all.zip": b"PK"}, "", "Unpack archives first"),
        ({"all.zip": b"PK"}, "all.zip", "is an archive: unpack it"),
        ({"a.docx": b"x"}, "a.docx", "is not a manifest"),
        ({"m.csv": ""}, "m.csv", "is empty: expected a header"),
        ({"m.csv": "label,kind\nx,y\n"}, "m.csv", "no image or path column; columns found: 'label', 'kind'"),
        ({"m.csv": "file,kind\nx,y\n"}, "m.csv", "no label column; columns found: 'file', 'kind'"),
        ({"m.csv": b"PK\x03\x04\0\0,"}, "m.csv", "cannot be read as CSV: it holds NUL bytes"),
        ({"m.csv": 'file,label\nx,"y\n'}, "m.csv", "cannot be read as CSV: line 2"),
        ({"m.tfrecord": b"x"}, "m.tfrecord", "is a TFRecord: save its images as files"),
        ({"m.pkl": b"x"}, "m.pkl", "is a pickle or array file"),
        ({"a.tfrecord": b"x"}, "", "found 1 .tfrecord.*is a TFRecord"),
        ({"m.xlsx": b"PK"}, "m.xlsx", r"is a spreadsheet: save it as CSV"),
        ({"m.csv": "version https://git-lfs.github.com/spec/v1\noid sha256:a\n"}, "m.csv", "git lfs pull"),
        ({"m.jsonl": "version https://git-lfs.github.com/spec/v1\noid sha256:a\n"}, "m.jsonl", "git lfs pull"),
        ({"m.parquet": "version https://git-lfs.github.com/spec/v1\noid sha256:a\n"}, "m.parquet", "git lfs pull"),
        ({"m.csv": "file,label,file\nx,y,z\n"}, "m.csv", "more than one column is called 'file'"),
        ({"m.jsonl": "[1]\n"}, "m.jsonl", "line 1: expected a JSON object, found list"),
        ({"m.jsonl": "{\n"}, "m.jsonl", "cannot be read as JSON lines"),
        ({"m.parquet": b"PAR1 is not enough"}, "m.parquet", "cannot be read as Parquet"),
    ],
)
def test_a_source_that_cannot_be_read_says_what_was_found(tmp_path, files, name, message):
    tree(tmp_path, {k: v for k, v in files.items() if not k.endswith("/")})
    with pytest.raises(DataError, match=message):
        rows(tmp_path / name)


def test_a_wrong_label_column_lists_the_existing_columns(tmp_path):
    tree(tmp_path, {"m.csv": "file,label\nx,y\n"})
    with pytest.raises(DataError, match=r"no column 'kind' \(for the label\); columns found: 'file', 'label'"):
        open_source(tmp_path / "m.csv", Columns(label="kind"))


def test_columns_can_be_named_and_labels_be_left_out(tmp_path):
    tree(tmp_path, {"a.png": png(1), "m.csv": "where,label,kind\na.png,x,y\n"})
    assert [r.label for r in rows(tmp_path / "m.csv", image="where", label="kind")] == ["y"]
    assert [r.label for r in rows(tmp_path / "m.csv", image="where", unlabelled=True)] == [None]


@pytest.mark.parametrize(
    ("value", "task", "expected"),
    [
        (" cat ", "multiclass", "cat"),
        ("a|b", "multiclass", "a|b"),
        (3, "multiclass", "3"),
        (3.0, "multiclass", "3"),
        (float("nan"), "multiclass", None),
        (["cat"], "multiclass", "cat"),
        ("b|a|b", "multilabel", ["a", "b"]),
        (["b", "a"], "multilabel", ["a", "b"]),
        ([], "multilabel", []),
        ("cat", "multilabel", ["cat"]),
    ],
)
def test_labels_are_canonical(value, task, expected):
    assert fields.label(value, task, None) == expected


@pytest.mark.parametrize(
    ("value", "task", "reason"),
    [
        ("  ", "multiclass", "bad_label"),
        ("x" * 201, "multiclass", "bad_label"),
        (["a", "b"], "multiclass", "bad_label"),
        (True, "multiclass", "bad_label"),
        (1.5, "multiclass", "bad_label"),
        ({"a": 1}, "multilabel", "bad_label"),
        ("a||b", "multilabel", "bad_label"),
        ("bird", "multiclass", "unknown_label"),
        (["a", "bird"], "multilabel", "unknown_label"),
    ],
)
def test_labels_that_cannot_be_used(value, task, reason):
    with pytest.raises(Unusable) as error:
        fields.label(value, task, ["a", "b"])
    assert error.value.reason == reason


def test_an_impossible_time_costs_only_the_time(tmp_path):
    image = pa.array([png(1), png(2)], pa.binary())
    times = pa.array([2**62, 10**15], pa.timestamp("us", tz="Mars/Phobos"))
    pq.write_table(pa.table({"image": image, "label": ["x", "x"], "time": times}), tmp_path / "m.parquet")
    assert reasons(tmp_path / "m.parquet") == [None, None]
    assert [row.bad_time is None for row in rows(tmp_path / "m.parquet")] == [False, True]


IMAGE = st.just("a.png")  # else the path alone would refuse nearly every row
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
COLUMNS = ("label", "time", "split", "source", "group", "annotator", "slice", "slice_x", "labelled_at")


@given(
    st.fixed_dictionaries({"image": IMAGE | ANYTHING} | {name: ANYTHING for name in COLUMNS}),
    st.sampled_from(["multiclass", "multilabel"]),
)
@settings(max_examples=200, deadline=None)
def test_whatever_a_row_holds_it_can_be_stored_or_is_refused(record, task):
    with TemporaryDirectory() as folder:
        tree(Path(folder), {"a.png": png(1), "m.jsonl": json.dumps(record)})
        (row,) = rows(Path(folder) / "m.jsonl")
        reason = None
        try:
            label = fields.label(row.label, task, None)
            row.read()
        except Unusable as error:
            reason = error.reason
        if reason is None:
            pa.array([label], label_type(task))
            pa.array([row.taken_at, row.labelled_at], pa.timestamp("us", tz="UTC"))
            pa.array(
                [row.source, row.group, row.annotator, *(text for pair in row.slices for text in pair)], pa.string()
            )
        assert reason is None or reason in QUARANTINE_REASONS


def test_a_bad_split_refuses_only_its_row_and_a_bad_time_not_even_that(tmp_path):
    tree(tmp_path, {"a.png": png(1), "m.csv": "file,label,time,split\na.png,x,yesterday,\na.png,x,,weird\na.png,x,,\n"})
    assert reasons(tmp_path / "m.csv") == [None, "bad_split", None]
    assert [row.bad_time for row in rows(tmp_path / "m.csv")] == ["yesterday", None, None]


@pytest.mark.parametrize(
    "value", ["2024:05:31 12:00:00", "2024-05-31T12:00:00Z", 1717156800, "1717156800", 1717156800e3]
)
def test_times_in_many_forms(value):
    assert Times().read(value) == datetime(2024, 5, 31, 12, tzinfo=UTC)
