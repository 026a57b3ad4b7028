"""Folders as people have them: sidecars, masks, thumbnails and system files are left aside and said, never taken."""

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from tasks.sources.records import Columns
from tasks.sources.source import open_source
from tasks.sources.understood import alike, understood
from tests.support.ingesting import folder, image, noise, samples, take
from tests.support.photos import encode

PNG = encode(Image.new("L", (8, 8), 9))


def tree(root: Path, *names: str) -> Path:
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(PNG)
    return root


def read(root: Path) -> dict[str, tuple]:
    """path -> (label, split) of every row."""
    return {row.path: (row.label, *row.split[:1]) for row in open_source(root).rows()}


def said(root: Path, **columns) -> str:
    return "\n".join(understood(open_source(root, Columns(**columns)), "multiclass"))


def test_files_that_no_image_can_be_by_their_suffix_are_left_aside_and_counted(tmp_path):
    source = folder(tmp_path / "s", 6)
    for file in list(source.rglob("*.png")):
        file.with_name(f"{file.name}.json").write_text("{}")
        file.with_suffix(".XML").write_text("<a/>")
    (source / "LICENSE").write_text("free")
    (source / "a/broken.jpg").write_text("an image by its suffix is judged by its bytes")
    told = []
    report = take(tmp_path, source, say=told.append)
    assert report.offered == 7
    assert [refused.where for refused in report.quarantined] == ["a/broken.jpg"]
    assert "13 sidecar files left aside: .json, .xml, LICENSE" in told[0]
    assert "2 classes from folder names (a, b)" in told[0]


def test_masks_next_to_their_images_are_not_images(tmp_path):
    tree(tmp_path, "cat/1.jpg", "cat/1_mask.png", "cat/2 (3).jpg", "cat/2 (3)_mask_1.png", "dog/1.jpg", "dog/1_gt.png")
    tree(tmp_path, "dog/sleep_mask.png", "dog/1_label.jpg")  # no image "sleep"; a photo of 1's label
    assert sorted(read(tmp_path)) == [
        "cat/1.jpg",
        "cat/2 (3).jpg",
        "dog/1.jpg",
        "dog/1_label.jpg",
        "dog/sleep_mask.png",
    ]
    assert "3 masks left aside: .png" in said(tmp_path)


@pytest.mark.parametrize("masks", ["masks", "labels", "Ground_Truth"])
def test_a_folder_of_masks_mirrors_the_images_next_to_it(tmp_path, masks):
    tree(tmp_path, "train/images/cat/1.jpg", "train/images/dog/2.jpg", "test/images/cat/3.jpg")
    tree(tmp_path, f"train/{masks}/cat/1.png", f"train/{masks}/dog/2_mask.png", f"test/{masks}/cat/3.png")
    assert read(tmp_path) == {
        "train/images/cat/1.jpg": ("cat", "train"),
        "train/images/dog/2.jpg": ("dog", "train"),
        "test/images/cat/3.jpg": ("cat", "test"),
    }
    text = said(tmp_path)
    assert "split from test/ train/" in text
    assert "images/ not taken as a class" in text
    assert f"3 masks left aside: test/{masks}/, train/{masks}/" in text or f"train/{masks}/, test/{masks}/" in text


def test_images_with_label_files_have_no_class_from_the_folder_called_images(tmp_path):
    tree(tmp_path, "images/train/1.jpg", "images/val/2.jpg")
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/1.txt").write_text("0 .5 .5 .1 .1")
    assert read(tmp_path) == {"images/train/1.jpg": (None, "train"), "images/val/2.jpg": (None, "calibration")}
    assert "no labels" in said(tmp_path)


def test_a_class_called_labels_or_thumbs_is_a_class(tmp_path):
    tree(tmp_path, *(f"{name}/{name}{n}.jpg" for name in ("labels", "thumbs", "photos") for n in range(3)))
    assert {label for label, *_ in read(tmp_path).values()} == {"labels", "thumbs", "photos"}


def test_thumbnails_are_left_aside_in_their_folder_and_next_to_their_image(tmp_path):
    tree(tmp_path, "cat/1.jpg", "cat/thumbs/1.jpg", "dog/2.jpg", "dog/2_thumb.jpg", "dog/thumb_2.jpg")
    tree(tmp_path, "thumbnails/1.jpg", "thumbnails/2_thumb.jpg")
    assert read(tmp_path) == {"cat/1.jpg": ("cat",), "dog/2.jpg": ("dog",)}
    assert "5 thumbnails left aside" in said(tmp_path)


def test_what_file_managers_leave_is_said(tmp_path):
    tree(tmp_path, "cat/1.jpg", "cat/._1.jpg", "cat/.DS_Store", "cat/Thumbs.db", "dog/2.jpg", "__MACOSX/cat/._1.jpg")
    assert read(tmp_path) == {"cat/1.jpg": ("cat",), "dog/2.jpg": ("dog",)}
    text = said(tmp_path)
    assert "4 hidden or system files left aside" in text
    assert all(name in text for name in ("._*", ".DS_Store", "Thumbs.db", "__MACOSX"))


def test_split_folders_next_to_a_folder_without_images_are_splits(tmp_path):
    tree(tmp_path, "train/cat/1.jpg", "val/cat/2.jpg", "test/dog/3.jpg")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/classes.txt").write_text("cat")
    assert {path: row[1] for path, row in read(tmp_path).items()} == {
        "train/cat/1.jpg": "train",
        "val/cat/2.jpg": "calibration",
        "test/dog/3.jpg": "test",
    }
    assert {row[0] for row in read(tmp_path).values()} == {"cat", "dog"}


def test_split_folders_in_each_class_folder_are_splits(tmp_path):
    tree(tmp_path, "cat/train/1.jpg", "cat/test/2.jpg", "dog/train/3.jpg", "dog/val/4.jpg")
    assert read(tmp_path) == {
        "cat/train/1.jpg": ("cat", "train"),
        "cat/test/2.jpg": ("cat", "test"),
        "dog/train/3.jpg": ("dog", "train"),
        "dog/val/4.jpg": ("dog", "calibration"),
    }


def test_a_lone_folder_called_images_is_not_the_only_class(tmp_path):
    tree(tmp_path, "dataset/images/cat/1.jpg", "dataset/images/dog/2.jpg")
    assert [row[0] for row in read(tmp_path).values()] == ["cat", "dog"]
    assert "dataset/, images/ not taken as a class" in said(tmp_path)
    flat = tree(tmp_path / "flat", "images/1.jpg")
    assert read(flat) == {"images/1.jpg": (None,)}


def test_a_manifest_says_its_columns_and_classes(tmp_path):
    image(tmp_path, "a.png", noise(1))
    (tmp_path / "m.csv").write_text("file,species,Camera,split\na.png,cat,c1,train\na.png,dog,c1,train\n")
    text = said(tmp_path / "m.csv", label="species")
    assert "2 classes from a column (cat, dog); columns taken: image 'file', label 'species', source 'Camera'" in text
    assert "split 'split'" in text


def test_class_names_of_two_unicode_forms_are_one_class_and_said(tmp_path):
    cafe = "caf\u00e9"
    apart = unicodedata.normalize("NFD", cafe)
    image(tmp_path / "one", f"{cafe}/1.png", noise(1))
    image(tmp_path / "two", f"{apart}/2.png", noise(2))
    take(tmp_path, tmp_path / "one")
    told = []
    report = take(tmp_path, tmp_path / "two", say=told.append)
    assert report.classes == {cafe: 1}
    assert {row["label"] for row in samples(tmp_path)} == {cafe}
    assert any("other Unicode forms" in line and cafe in line for line in told)


def test_class_names_that_look_alike_are_said_also_beside_recorded_ones(tmp_path):
    image(tmp_path / "one", "traffic light/1.png", noise(1))
    image(tmp_path / "two", "Traffic-Light/2.png", noise(2))
    take(tmp_path, tmp_path / "one")
    told = []
    take(tmp_path, tmp_path / "two", say=told.append)
    assert "2 class names look alike: Traffic-Light, traffic light" in "\n".join(told)
    assert alike({"cafe", "caf\u00e9", "tee", "CAFE"}) == [["CAFE", "cafe", "caf\u00e9"]]
    assert alike({"class 1", "class 2", "cat", "cats"}) == []


def test_a_layout_names_the_classes_and_sidecars_are_still_left_aside(tmp_path):
    tree(tmp_path, "north/owl_1.jpg", "south/swan_2.jpg")
    (tmp_path / "south/swan_2.json").write_text("{}")
    source = open_source(tmp_path, layout="{site}/{class}_{name}")
    assert [row.label for row in source.rows()] == ["owl", "swan"]
    assert understood(source, "multiclass") == [
        "understood: 2 classes by the layout {site}/{class}_{name} (owl, swan); 1 sidecar file left aside: .json"
    ]


def test_folders_that_repeat_in_the_class_folders_are_said_with_the_layouts_that_read_them(tmp_path):
    source = tree(tmp_path / "s", *(f"{at}/{a}/{b}/1.png" for at in ("train", "test") for a in "xy" for b in "pqr"))
    told = said(source)
    assert "2 classes from folder names (x, y)" in told
    assert "folders of the same names (p, q, r), which are not read" in told
    inner, outer = "{split}/{source}/{class}/{*}", "{split}/{class}/{source}/{*}"
    assert f"--layout '{inner}'; if they say where images are from, '{outer}'" in told
    assert {row.label for row in open_source(source, layout=inner).rows()} == {"p", "q", "r"}
    assert {(row.label, row.source) for row in open_source(source, layout=outer).rows()} >= {("x", "p"), ("y", "r")}


def test_folders_that_repeat_deeper_down_are_read_by_the_layout_that_is_said(tmp_path):
    source = tree(tmp_path / "s", *(f"images/{a}/{b}/day 1/1.png" for a in "xy" for b in "pq"))
    assert "use --layout '{*}/{source}/{class}/{**}/{*}'" in said(source)
    found = open_source(source, layout="{*}/{source}/{class}/{**}/{*}").rows()
    assert sorted((row.label, row.source) for row in found) == [("p", "x"), ("p", "y"), ("q", "x"), ("q", "y")]


def test_folders_of_one_class_alone_are_not_worth_a_note(tmp_path):
    assert "note:" not in said(tree(tmp_path / "s", "x/cam 1/1.png", "x/cam 2/1.png", "y/1.png", "y/cam 3/1.png"))


def test_classes_that_the_data_set_does_not_have_yet_are_named(tmp_path):
    source = open_source(tree(tmp_path / "s", "cat/1.png", "catt/2.png", "dog/3.png"))
    assert "note: new to the data set: class catt" in understood(source, "multiclass", ["cat", "dog"])
    assert "new to the data set" not in "".join(understood(source, "multiclass", ["cat", "catt", "dog"]))
    assert "new to the data set" not in "".join(understood(source, "multiclass")), "the first ingest"
