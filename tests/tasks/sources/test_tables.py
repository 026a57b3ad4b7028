"""Tables as people and programs save them: what a row says does not depend on encoding, separator, blanks or quotes."""

import json

import pytest

from tasks.common.cells import optional_text
from tasks.common.written import look, tidy
from tasks.sources import fields
from tasks.sources.fields import Unusable
from tasks.sources.tables import open_table
from tests.tasks.sources.test_sources import png, reasons, rows, tree

PLAIN = "path,label,source\na.png,café,c1\nb.png,tee,c2\n"
WANTED = [("a.png", "café", "c1"), ("b.png", "tee", "c2")]
EXCEL = PLAIN.replace(",", ";").replace("\n", "\r\n")


def images(folder):
    return tree(folder, {f"{name}.png": png(ord(name)) for name in "abcd"})


def read(folder, content: bytes, name="m.csv", **columns):
    (images(folder) / name).write_bytes(content)
    found = rows(folder / name, **columns)
    return [(row.path, fields.label(row.label, "multiclass", None), row.source) for row in found]


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        PLAIN.replace(",", "\t").encode("utf-16-le"),
        EXCEL.encode("cp1252"),
        b"sep=;\r\n" + EXCEL.encode(),
        PLAIN.replace(",", "|").encode(),
        PLAIN.replace("é", "e\u0301").encode(),
        PLAIN.replace("\n", ",,\n").encode(),
        PLAIN.replace("\n", "\n\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        f"# exported 2026-05-03, by anna\n\n{PLAIN}".encode(),
        f"# {PLAIN}".encode(),
        PLAIN.replace(",", ", ").encode(),
        PLAIN.replace(",", " , ").encode(),
        b'"path", "label", "source"\n"a.png", "caf\xc3\xa9", "c1"\n"b.png", "tee", "c2"\n',
        PLAIN.replace("tee", "\u200btee\u00a0").replace("label", "\u00a0Label\ufeff").encode(),
        PLAIN.replace("path", "File Name").replace("label", "CLASS-NAME").encode(),
        b",".join([b"", PLAIN.replace("\n", "\n0,").encode()]).removesuffix(b"0,"),  # a program's row numbers
    ],
)
def test_every_dialect_says_the_same(tmp_path, content):
    assert read(tmp_path, content) == WANTED


def test_how_a_file_is_encoded_is_said(tmp_path):
    (tmp_path / "m.csv").write_bytes(EXCEL.encode("cp1252"))
    assert open_table(tmp_path / "m.csv").notes == ["m.csv is read as Windows-1252, because it is not UTF-8"]


def test_a_row_that_does_not_fit_the_header_costs_only_itself(tmp_path):
    content = "path,label\na.png,x\nb.png\nc.png,x,y\nd.png,x\n"
    (images(tmp_path) / "m.csv").write_text(content)
    assert reasons(tmp_path / "m.csv") == [None, "bad_row", "bad_row", None]


def test_a_line_that_is_not_json_costs_only_itself_and_later_keys_count(tmp_path):
    lines = ['{"path": "a.png"}', "{", '{"path": "b.png", "label": "x\u2028y"}', "[1]"]
    (images(tmp_path) / "m.jsonl").write_text("\n".join(lines))
    assert reasons(tmp_path / "m.jsonl") == [None, "bad_row", None, "bad_row"]
    assert [row.label for row in rows(tmp_path / "m.jsonl")][:3:2] == [None, "x\u2028y"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (["1.0", "0.0", "", "1"], ["1", "0", None, "1"]),  # pandas writes whole numbers of a column with gaps so
        (["1.0", "1.5", "2.0", "1"], ["1.0", "1.5", "2.0", "1"]),  # versions, ratings: the names are as written
        (["1.0", "beta", "", ""], ["1.0", "beta", None, None]),
        (["01", "02", "", ""], ["01", "02", None, None]),
    ],
)
def test_whole_numbers_of_a_column_with_gaps_are_the_numbers(tmp_path, written, expected):
    lines = [f"{name}.png,{label},{label}" for name, label in zip("abcd", written, strict=True)]
    (images(tmp_path) / "m.csv").write_text("path,label,group\n" + "\n".join(lines))
    found = rows(tmp_path / "m.csv")
    assert [row.label for row in found] == [row.group for row in found] == expected


def test_keys_that_pandas_made_floats_are_the_numbers():
    assert [optional_text(value) for value in (1001.0, 1001, "1001", 1.5, b"k\xc3\xa9")] == [
        *("1001", "1001", "1001", "1.5", "ké")
    ]


@pytest.mark.parametrize("vector", [[0, 1, 1, 0], [1.0, 0.0], "[0, 1, 1, 0]", [True, False]])
@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_vector_of_zeros_and_ones_is_not_a_set_of_names(vector, task):
    with pytest.raises(Unusable, match="vector of zeros and ones: give the names of the classes"):
        fields.label(vector, task, None)


def test_a_list_in_a_cell_is_that_list():
    assert fields.label("['b', 'a']", "multilabel", None) == ["a", "b"]
    assert fields.label('["a"]', "multiclass", None) == "a"
    assert fields.label("[unknown]", "multiclass", None) == "[unknown]"


def test_a_column_of_zeros_and_ones_per_class_gives_the_label(tmp_path):
    content = "filename, cat, dog, Unlabeled\na.png, 1, 0, 0\nb.png, 0, 1, 0\nc.png, 0, 0, 0\n"
    assert read(tmp_path, content.encode()) == [("a.png", "cat", None), ("b.png", "dog", None), ("c.png", None, None)]
    (tmp_path / "n.csv").write_text("filename,cat,dog\na.png,1,1\nb.png,0,1\nc.png,0,0\n")
    found = [fields.label(row.label, "multilabel", None) for row in rows(tmp_path / "n.csv")]
    assert found == [["cat", "dog"], ["dog"], []]


def test_manifests_in_split_folders_give_the_split(tmp_path):
    for number, split in enumerate(("train", "valid", "test")):
        tree(tmp_path / split, {"a.png": png(number), "_classes.csv": "filename, cat, dog\na.png, 1, 0\n"})
    assert {(row.label, row.split) for row in rows(tmp_path)} == {
        *(("cat", ("train",)), ("cat", ("calibration",)), ("cat", ("test",)))
    }


@pytest.mark.parametrize(
    "written",
    ["images\\a.png", ".\\images\\a.png", "images/a.png ", "images/caf\u00e9.png", "images/cafe\u0301.png"],
)
def test_paths_of_other_systems_are_found(tmp_path, written):
    tree(tmp_path, {"images/a.png": png(1), "images/cafe\u0301.png": png(1)})
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": written, "label": "x"}))
    assert [row.read() for row in rows(tmp_path / "m.jsonl")] == [png(1)]


def test_a_file_address_is_read_inside_the_folder_only(tmp_path):
    tree(tmp_path, {"in/a b.png": png(1), "out.png": png(2)})
    paths = [(tmp_path / name).as_uri() for name in ("in/a b.png", "out.png")]
    (tmp_path / "in/m.jsonl").write_text("\n".join(json.dumps({"path": path, "label": "x"}) for path in paths))
    assert reasons(tmp_path / "in/m.jsonl") == [None, "missing_file"]


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("https://example.org/a.png", "addresses are not fetched. Download"),
        ("s3://bucket/a.png", "addresses are not fetched. Download"),
        ("~/a.png", "'~' is not expanded"),
        ("C:\\data\\a.png", "a Windows path of another machine"),
        ("x\\a.png", "backslashes as / too"),
    ],
)
def test_a_path_that_cannot_be_found_says_what_to_write(tmp_path, written, hint):
    (tmp_path / "m.jsonl").write_text(json.dumps({"path": written, "label": "x"}))
    (row,) = rows(tmp_path / "m.jsonl")
    with pytest.raises(Unusable, match=hint):
        row.read()


@pytest.mark.parametrize(("value", "expected"), [("0,5", 0.5), (0.5, 0.5), (float("nan"), None), ("inf", None)])
def test_a_sampling_probability_is_finite(value, expected):
    assert fields.probability(value) == expected
    assert fields.probability(0) is fields.probability(1.5) is fields.probability([1]) is None


def test_what_looks_the_same():
    assert len({look(text) for text in ("Café", "cafe\u0301", "caf\u00e9 ", "\u200bCAFE", "'café'")}) == 1
    assert look("1.0") == look("1") != look("1.5")
    assert tidy("\ufeff a\u00a0b\u200b ") == "a b"


def test_a_nul_byte_in_one_cell_costs_only_its_row(tmp_path):
    (images(tmp_path) / "m.csv").write_text("path,label\na.png,cat\nb\0.png,cat\nc.png,dog\nd.png,dog\n")
    assert reasons(tmp_path / "m.csv") == [None, "missing_file", None, None]
