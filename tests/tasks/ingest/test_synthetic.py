"""Synthetic images: they go to train whatever their source says, and never bridge to what is measured."""

import pytest

from tasks.sources.records import Columns
from tests.support.ingesting import folder, image, manifest, noise, samples, take


def test_synthetic_images_are_only_trained_on_and_say_what_they_are(tmp_path):
    take(tmp_path, folder(tmp_path / "base", 20))
    rows = [
        {"path": image(tmp_path / "new", f"{n}.png", noise(n)), "label": "a", "how": "representative"}
        for n in range(100, 140)
    ]
    report = take(tmp_path, manifest(tmp_path / "new", rows), kind="synthetic", columns=Columns(picked="how"))
    assert report.splits == {"train": 40}
    assert report.notes == ()
    made = [row for row in samples(tmp_path) if row["origin"] == "synthetic"]
    assert {(row["split"], row["picked"]) for row in made} == {("train", "unknown")}
    assert len(made) == 40


@pytest.mark.parametrize("split", ["calibration", "test", "hard"])
def test_a_synthetic_image_that_is_offered_for_a_held_out_split_is_refused(tmp_path, split):
    rows = [
        {"path": image(tmp_path / "new", f"{n}.png", noise(n)), "label": "a", "split": where}
        for n, where in enumerate(["train", split])
    ]
    report = take(tmp_path, manifest(tmp_path / "new", rows), kind="synthetic")
    (refused,) = report.quarantined
    assert refused.reason == "bad_split"
    assert f"offered for {split}, but synthetic" in refused.detail
    assert report.splits == {"train": 1}


def test_a_synthetic_image_that_repeats_a_test_image_is_refused(tmp_path):
    rows = [{"path": image(tmp_path / "base", "t.png", noise(0)), "label": "a", "split": "test"}]
    take(tmp_path, manifest(tmp_path / "base", rows))
    made = [{"path": image(tmp_path / "new", "s.jpg", noise(0), quality=95), "label": "a"}]
    report = take(tmp_path, manifest(tmp_path / "new", made), kind="synthetic")
    assert [one.reason for one in report.quarantined] == ["bridges_splits"]
