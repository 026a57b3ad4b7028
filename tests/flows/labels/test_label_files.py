"""Files of labels as people and their tools save them: every one says the same."""

import json
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.labels.files import read_labels
from tasks.common.errors import DataError
from tasks.sources.times import Times

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def read(file, task="multiclass", classes=("Bag", "Öl", "1", "2"), times=None):
    return read_labels(file, task, list(classes), "me", times or Times())


def said(found) -> list[tuple]:
    return [(one.names[0], "exclude" if one.exclude else one.label, one.annotator) for one in found.given]


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


EXPECTED = [(A, "Öl", "ann"), (B, "1", "me"), (C, "exclude", "me")]
LINES = [["id", "label", "annotator", "exclude"], [A, "Öl", "ann", ""], [B, "1.0", "", ""], [C, "", "", "yes"]]


def text(separator: str, end: str = "\r\n") -> str:
    return end.join(separator.join(line) for line in LINES) + end


@pytest.mark.parametrize(
    "content",
    [
        text(",", "\n").encode(),
        b"\xef\xbb\xbf" + text(";").encode(),
        text(";").encode("cp1252"),
        ("sep=;\r\n" + text(";")).encode("cp1252"),
        text("\t").encode("utf-16"),
        text(", ").encode(),
        "\n".join(",".join(f'"{cell}"' for cell in line) for line in LINES).encode(),
        (text(";") + ";;;\r\n\r\n").encode(),
        "\r\n".join(";".join(line) + ";;" for line in LINES).encode(),
    ],
    ids=["plain", "bom", "cp1252", "sep", "utf16", "blanks", "quoted", "empty rows", "padded"],
)
def test_a_table_from_any_spreadsheet_says_the_same(tmp_path, content):
    found = read(put(tmp_path / "labels.csv", content))
    assert (said(found), found.refused, found.rows) == (EXPECTED, [], 3)


def test_what_was_guessed_about_a_table_is_said(tmp_path):
    assert read(put(tmp_path / "a.csv", text(";").encode("cp1252"))).notes == [
        "a.csv is read as Windows-1252, because it is not UTF-8"
    ]
    assert read(put(tmp_path / "b.csv", text(",").encode())).notes == []


def test_json_lines_and_parquet_say_the_same(tmp_path):
    records = [{"id": A, "label": "Öl", "annotator": "ann"}, {"id": B, "label": 1}, {"id": C, "exclude": True}]
    lines = put(tmp_path / "l.jsonl", "\n".join(json.dumps(record) for record in records))
    assert said(read(lines)) == EXPECTED
    columns = {"id": [A, B, C], "label": ["Öl", "1", None], "annotator": ["ann", None, None]}
    pq.write_table(pa.table(columns | {"exclude": [False, None, True]}), tmp_path / "l.parquet")
    assert said(read(tmp_path / "l.parquet")) == EXPECTED


def test_each_row_that_cannot_be_used_is_named_and_the_others_count(tmp_path):
    rows = ["id,label,exclude", f"{A},Bag,", f"{B},Spaceship,", ",Bag,", f"{C},Bag,x", f"{A},Bag,perhaps", f"{B},Bag"]
    found = read(put(tmp_path / "l.csv", "\n".join(rows)))
    assert said(found) == [(A, "Bag", "me")]
    assert [line.split(": ")[0] for line in found.refused] == [f"l.csv line {n}" for n in (3, 4, 5, 6, 7)]
    for line, part in zip(found.refused, ["Spaceship", "no id", "both a label", "'perhaps'", "2 fields"], strict=True):
        assert part in line


def test_a_row_may_name_its_sample_by_id_key_or_path(tmp_path):
    found = read(put(tmp_path / "l.csv", f"key,path,id,label\nP-7,a/b.png,{A},Bag\nP-8,,,Bag\n,c.png,,Bag\n"))
    assert [one.names for one in found.given] == [(A, "P-7", "a/b.png"), ("P-8",), ("c.png",)]


def test_a_time_is_read_as_the_project_writes_times(tmp_path):
    file = put(tmp_path / "l.csv", f"id;label;labelled_at\n{A};Bag;03.05.2026\n{B};Bag;soon\n")
    found = read(file, times=Times("%d.%m.%Y"))
    assert ([one.at for one in found.given], found.untimed) == ([datetime(2026, 5, 3, tzinfo=UTC), None], 1)


def test_in_a_multilabel_set_none_of_the_classes_is_an_answer(tmp_path):
    file = put(tmp_path / "l.csv", f"id,label\n{A},Bag|Öl\n{B},(none)\n{C},\n")
    found = read(file, "multilabel")
    assert ([one.label for one in found.given], found.left) == ([["Bag", "Öl"], []], 1)


def task(name: str, *annotations: dict, **more) -> dict:
    return {"id": 5, "data": {"evergreen_id": name, "image": "data:..."}, "annotations": list(annotations), **more}


def choice(*labels: str, control: str = "label") -> dict:
    return {"from_name": control, "to_name": "image", "type": "choices", "value": {"choices": list(labels)}}


def test_a_label_studio_export_gives_every_annotation_that_is_an_answer(tmp_path):
    ann, bob = {"completed_by": {"email": "ann@example.org"}}, {"completed_by": 2}
    export = [
        task(
            A,
            ann | {"id": 1, "result": [choice("Bag")], "updated_at": "2026-11-22T10:00:00Z"},
            bob | {"id": 2, "result": [choice("2", control="looks_like"), choice("Öl")]},
        ),
        task(B, ann | {"result": [choice("Bag")], "was_cancelled": True}),
        task(B, drafts=[{"result": [choice("Bag")]}], predictions=[{"result": [choice("Bag")]}]),
        task(B, ann | {"result": []}),
        task(C, ann | {"id": 9, "result": [choice("(exclude)")]}),
    ]
    found = read(put(tmp_path / "export.json", json.dumps(export)))
    assert said(found) == [(A, "Bag", "ann@example.org"), (A, "Öl", "annotator 2"), (C, "exclude", "ann@example.org")]
    assert (found.left, found.refused) == (3, [])
    assert found.given[0].at == datetime(2026, 11, 22, 10, tzinfo=UTC)


def test_an_answer_to_another_question_is_refused_by_name(tmp_path):
    boxes = {"from_name": "label", "type": "rectanglelabels", "value": {"rectanglelabels": ["Bag"]}}
    export = [task(A, {"id": 3, "result": [choice("Bag", control="kind")]}), task(B, {"id": 4, "result": [boxes]})]
    found = read(put(tmp_path / "e.json", json.dumps(export)))
    assert found.given == []
    assert found.refused[0] == "e.json task 5 annotation 3: no answer of a control 'label', only of 'kind'"
    assert "expected choices" in found.refused[1]


def test_the_flat_exports_of_label_studio_say_the_same(tmp_path):
    flat = [
        {"id": 1, "evergreen_id": A, "image": "data:x", "label": "Bag", "annotator": 3, "annotation_id": 1},
        {"id": 2, "evergreen_id": B, "image": "data:x", "label": {"choices": ["Bag", "Öl"]}, "annotator": 3},
        {"id": 3, "evergreen_id": C, "image": "data:x", "annotator": 3},
    ]
    found = read(put(tmp_path / "min.json", json.dumps(flat)), "multilabel")
    expected = [(A, ["Bag"], "annotator 3"), (B, ["Bag", "Öl"], "annotator 3")]
    assert (said(found), found.left) == (expected, 1)
    image = '"data:image/png;base64,' + "A" * 200_000 + '"'
    rows = [
        "annotation_id,annotator,created_at,evergreen_id,id,image,label,lead_time,updated_at",
        f"1,3,2026-11-22T10:00:00Z,{A},1,{image},Bag,2.5,2026-11-22T10:00:00Z",
        f'2,3,2026-11-22T10:00:00Z,{B},2,{image},"{{""choices"": [""Bag"", ""Öl""]}}",2.5,2026-11-22T10:00:00Z',
        f"3,3,2026-11-22T10:00:00Z,{C},3,{image},,2.5,2026-11-22T10:00:00Z",
    ]
    found = read(put(tmp_path / "export.csv", "\n".join(rows)), "multilabel")
    assert (said(found), found.left) == (expected, 1)
    assert [one.names for one in found.given] == [(A,), (B,)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", "", "is empty"),
        ("l.csv", "name,label\n1,Bag\n", "no column 'id'"),
        ("l.csv", "id,confidence\n1,2\n", "no column 'label'"),
        ("l.csv", "id,label,label\n1,2,3\n", "more than one column is called 'label'"),
        ("l.csv", b"PK\x03\x04\0\0", "NUL"),
        ("l.csv", 'id,label\n1,"Bag\n', "cannot be read as CSV"),
        ("l.xlsx", "PK", "save it as CSV"),
        ("l.doc", "PK", "expected labels as"),
        ("l.json", "{}", "cannot be read as an export of Label Studio"),
        ("l.json", "not json", "cannot be read as an export of Label Studio"),
        ("l.parquet", "PK", "cannot be read as Parquet"),
        ("l.jsonl", b"{\0}", "cannot be read as JSON lines"),
    ],
)
def test_a_file_that_says_no_labels_is_an_error_that_says_what_is_expected(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read(put(tmp_path / name, content))
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / f"absent-{name}")
