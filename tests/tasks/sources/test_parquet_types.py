"""Parquet of any writer and class names that programs take for something else: what the row says is kept."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.sources import fields
from tests.tasks.sources.test_sources import png, rows, tree

NAMES = ["nan", "NA", "null", "None", "true", "1", "01", "-", "#N/A", "NULL"]


@pytest.mark.parametrize(
    ("label", "path"),
    [
        (pa.string(), pa.string()),
        (pa.large_string(), pa.large_string()),
        (pa.dictionary(pa.int32(), pa.string()), pa.dictionary(pa.int8(), pa.string())),
        (pa.string_view(), pa.string_view()),
        (pa.binary(), pa.string()),
    ],
)
def test_text_of_every_type_is_the_same_text(tmp_path, label, path):
    tree(tmp_path, {"a.png": png(1), "b.png": png(2)})
    columns = {"path": pa.array(["a.png", "b.png"]).cast(path), "label": pa.array(["café", None]).cast(label)}
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    found = rows(tmp_path / "m.parquet")
    assert [(row.path, fields.label(row.label, "multiclass", None), row.read()) for row in found] == [
        ("a.png", "café", png(1)),
        ("b.png", None, png(2)),
    ]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_encoded_images_of_every_type_are_read(tmp_path, kind):
    pq.write_table(pa.table({"image": pa.array([png(1)], kind), "label": ["x"]}), tmp_path / "m.parquet")
    assert [row.read() for row in rows(tmp_path / "m.parquet")] == [png(1)]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_class_names_that_look_like_nothing_are_names(tmp_path, suffix):
    files = [f"{number}.png" for number in range(len(NAMES))]
    tree(tmp_path, {name: png(number) for number, name in enumerate(files)})
    file = tmp_path / f"m.{suffix}"
    if suffix == "csv":
        lines = [f"{name},{label}" for name, label in zip(files, NAMES, strict=True)]
        file.write_text("path,label\n" + "\n".join(lines))
    else:
        pq.write_table(pa.table({"path": files, "label": NAMES}), file)
    assert [fields.label(row.label, "multiclass", None) for row in rows(file)] == NAMES


def test_class_folders_that_look_like_nothing_are_classes(tmp_path):
    tree(tmp_path, {f"{name.replace('/', '')}/a.png": png(1) for name in NAMES if name != "#N/A"})
    assert sorted(row.label for row in rows(tmp_path)) == sorted(name for name in NAMES if name != "#N/A")
