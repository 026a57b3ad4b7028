"""The default data set: size, tail, noise, truth, groups, and the script that makes it."""

import hashlib
import importlib.util
from collections import Counter, defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.dataset.decode import decode
from tests.support.checkout import ROOT

FASHION = ROOT / "datasets" / "fashion"
FILES = ("base", "batch-2", "sabotaged", "hard", "production-1", "production-2", "production-3", "production-4")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_fashion", ROOT / "datasets" / "make_fashion.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows() -> dict[str, list[dict]]:
    """File name -> rows, each with its `id`, true label and file."""
    truth = dict(zip(*pq.read_table(FASHION / "truth.parquet").to_pydict().values(), strict=True))
    out = {}
    for name in FILES:
        out[name] = pq.read_table(FASHION / f"{name}.parquet").to_pylist()
        for row in out[name]:
            row["id"] = hashlib.sha256(row["image"]["bytes"]).hexdigest()
            row["true"] = truth[row["id"]]
    return out


def training(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["split"] == "train"]


def test_it_stays_small():
    assert sum(file.stat().st_size for file in FASHION.glob("*.parquet")) <= 4_000_000


def test_no_image_is_in_two_places_and_truth_covers_exactly_all(rows):
    ids = [row["id"] for name in FILES for row in rows[name]]
    assert len(ids) == len(set(ids))
    assert sorted(ids) == sorted(pq.read_table(FASHION / "truth.parquet")["id"].to_pylist())


def test_base_has_a_long_tail_of_fifty_to_one(rows, script):
    counts = Counter(row["label"] for row in training(rows["base"]))
    assert set(counts) == set(script.CLASSES)
    ordered = sorted(counts.values(), reverse=True)
    assert ordered[0] / ordered[-1] == pytest.approx(50, rel=0.05)
    steps = np.divide(ordered[:-1], ordered[1:])
    assert steps.max() / steps.min() < 1.1  # exponential: each class is smaller than the one before by the same factor


@pytest.mark.parametrize("name", ["base", "batch-2"])
def test_training_noise_is_eight_percent_of_every_given_class(name, rows):
    of_class = defaultdict(list)
    for row in training(rows[name]):
        of_class[row["label"]].append(row["label"] != row["true"])
    for given, wrong in of_class.items():
        # within half a row of 8 %: proportional also in the smallest class
        assert abs(sum(wrong) - 0.08 * len(wrong)) <= 0.5, given
    everything = [value for wrong in of_class.values() for value in wrong]
    assert np.mean(everything) == pytest.approx(0.08, abs=0.005)


def test_held_out_and_hard_labels_are_clean_and_balanced(rows):
    for split, each in (("calibration", 50), ("test", 150)):
        held = [row for row in rows["base"] if row["split"] == split]
        assert all(row["label"] == row["true"] for row in held)
        assert set(Counter(row["label"] for row in held).values()) == {each}
    assert all(row["label"] == row["true"] and row["split"] == "hard" for row in rows["hard"])
    assert 150 <= len(rows["hard"]) <= 200


def test_a_source_serves_one_split_only(rows):
    splits = defaultdict(set)
    for name in FILES:
        for row in rows[name]:
            splits[row["source"]].add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert len({row["source"] for row in rows["base"]}) == 40


def test_every_slice_has_support_in_every_split(rows):
    support = Counter((row["split"], row["slice_lighting"]) for row in rows["base"])
    assert all(
        support[split, value] >= 100 for split in ("train", "calibration", "test") for value in ("bright", "dim")
    )


def test_the_next_batch_brings_rare_classes_within_the_allowed_change_of_mix(rows):
    base, batch = (Counter(row["label"] for row in training(rows[name])) for name in ("base", "batch-2"))
    size, more = sum(base.values()), sum(batch.values())
    assert 0.5 <= more / size <= 0.7
    assert sum(abs(base[name] / size - batch[name] / more) for name in base) / 2 < 0.35
    rarest = sorted(base, key=base.get)[:3]
    assert all(batch[name] > base[name] for name in rarest)


def test_the_sabotaged_batch_flips_one_frequent_class_whole(rows):
    moved = Counter((row["true"], row["label"]) for row in rows["sabotaged"] if row["true"] != row["label"])
    assert list(moved) == [("Sneaker", "Bag")]
    assert moved["Sneaker", "Bag"] >= 30
    assert not any(row["label"] == "Sneaker" for row in rows["sabotaged"])


def test_production_shows_no_labels_and_the_camera_changes(rows):
    def brightness_of_black(name):
        darkest = [np.asarray(decode(row["image"]["bytes"], 10_000)).min() for row in rows[name]]
        return np.median(darkest)

    for name in ("production-1", "production-2", "production-3", "production-4"):
        assert {(row["label"], row["split"]) for row in rows[name]} == {(None, None)}
        assert len(rows[name]) == 250
    assert brightness_of_black("production-1") == 0
    assert {brightness_of_black(f"production-{number}") for number in (2, 3, 4)} == {40}


def test_production_mix_changes_in_the_third_window(rows):
    base = Counter(row["true"] for row in training(rows["base"]))
    first, last = (Counter(row["true"] for row in rows[name]) for name in ("production-1", "production-3"))
    rare, frequent = min(base, key=base.get), max(base, key=base.get)
    assert set(first.values()) == {25}
    assert last[rare] > 3 * last[frequent]


def test_hugging_face_metadata_and_images_read(rows):
    import json

    for name in FILES:
        schema = pq.read_schema(FASHION / f"{name}.parquet")
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        assert list(features) == schema.names
        assert features["image"] == {"_type": "Image"}
        image = decode(rows[name][0]["image"]["bytes"], 10_000)
        assert (image.size, image.mode) == ((28, 28), "L")


def test_the_script_makes_the_committed_bytes_from_its_source(script, tmp_path):
    """Compares all bytes if Debian's package is installed, otherwise only what the encoder gives for some images."""
    if script.SOURCE.is_dir():
        script.make(script.SOURCE, tmp_path)
        for file in sorted(FASHION.glob("*.parquet")):
            assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name
    else:
        for name in FILES:
            for row in pq.read_table(FASHION / f"{name}.parquet").to_pylist()[:50]:
                pixels = np.asarray(decode(row["image"]["bytes"], 10_000))
                assert script.png(pixels) == row["image"]["bytes"]
                assert script.lighting(pixels) == row["slice_lighting"]
            made = tmp_path / f"{name}.parquet"
            script.write(pq.read_table(FASHION / made.name), made)
            assert made.read_bytes() == (FASHION / made.name).read_bytes()


def test_licence_of_the_images_is_kept():
    text = (FASHION / "LICENSE").read_text(encoding="utf-8")
    assert "Zalando SE" in text
    assert "Permission is hereby granted, free of charge" in text
    assert "Fashion-MNIST" in (ROOT / "NOTICE").read_text(encoding="utf-8")
