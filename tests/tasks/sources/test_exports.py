"""Exports of labelling tools: one label per image is read, anything else says why not."""

import json

import pytest

from tasks.common.errors import DataError
from tasks.sources import fields
from tasks.sources.fields import Unusable
from tests.tasks.sources.test_sources import png, rows, tree


def read(folder, name, content, task="multiclass"):
    tree(folder, {"images/a.png": png(1), "images/b.png": png(2), "c.png": png(3)})
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    found = {}
    for row in rows(folder / name):
        try:
            row.read()
            found[row.path] = fields.label(row.label, task, None)
        except Unusable as error:
            found[row.where] = error.reason
    return found


COCO = {
    "images": [{"id": 1, "file_name": "images/a.png"}, {"id": 2, "file_name": "images/b.png"}],
    "annotations": [{"image_id": 1, "category_id": 7, "bbox": [0, 0, 1, 1]}, {"image_id": 1, "category_id": 7}],
    "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}],
}


def test_coco_with_one_category_per_image(tmp_path):
    assert read(tmp_path, "coco.json", COCO) == {"images/a.png": "cat", "images/b.png": None}


def test_coco_with_two_categories_on_an_image_is_for_several_labels_only(tmp_path):
    more = COCO | {"annotations": [*COCO["annotations"], {"image_id": 1, "category_id": 8}]}
    assert read(tmp_path, "coco.json", more) == {"coco.json image 1": "bad_label", "images/b.png": None}
    assert read(tmp_path, "coco.json", more, "multilabel")["images/a.png"] == ["cat", "dog"]


def choice(control, *values):
    return {"from_name": control, "to_name": "image", "type": "choices", "value": {"choices": list(values)}}


def task(number, path, *results, **more):
    return {"id": number, "data": {"image": path}, "annotations": [{"id": 1, "result": list(results), **more}]}


def test_label_studio_takes_the_control_label_or_the_only_one(tmp_path):
    content = [
        task(1, "/data/local-files/?d=images/a.png", choice("looks_like", "dog"), choice("label", "cat")),
        task(2, "/data/upload/3/0a1b2c3d-c.png", choice("kind", "dog"), completed_by=5),
        task(3, "images/b.png", choice("kind", "dog"), choice("other", "cat")),
    ]
    found = read(tmp_path, "export.json", content)
    assert found == {"images/a.png": "cat", "c.png": "dog", "export.json task 3": "bad_label"}


def test_json_min_and_lists_of_records(tmp_path):
    assert read(tmp_path, "min.json", [{"image": "/data/upload/1/0a1b2c3d-c.png", "choice": "dog", "id": 1}]) == {
        "c.png": "dog"
    }
    assert read(tmp_path, "list.json", [{"path": "c.png", "label": "x"}, {"path": "images/a.png"}]) == {
        "c.png": "x",
        "images/a.png": None,
    }


CVAT = """<?xml version="1.0"?><annotations><version>1.1</version>
<image id="0" name="images/a.png"><tag label="cat"/></image><image id="1" name="c.png">{}</image></annotations>"""


def test_cvat_tags(tmp_path):
    assert read(tmp_path, "cvat.xml", CVAT.format("")) == {"images/a.png": "cat", "c.png": None}
    two = CVAT.format('<tag label="dog"/><tag label="cat"/>')
    assert read(tmp_path, "cvat.xml", two, "multilabel") == {"images/a.png": ["cat"], "c.png": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", "{", "cannot be read as JSON"),
        ("x.json", "{}", "expected a COCO file, an export of Label Studio, or a list of records"),
        ("x.json", '{"images": [{}], "annotations": [], "categories": []}', "cannot be read as COCO: KeyError 'id'"),
        ("x.json", '[{"a": 1}]', "no image or path column"),
        ("x.xml", "<annotations>", "cannot be read as XML"),
        ("x.xml", "<a/>", "of XML, only CVAT for images is read"),
        (
            "x.xml",
            '<annotations><image name="a"><box label="c"/></image></annotations>',
            "has only box: expected a tag",
        ),
        ("x.xml", '<!DOCTYPE a [<!ENTITY b "c">]><annotations/>', "declares entities"),
    ],
)
def test_other_files_say_what_is_expected(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, name, content)
