"""Labels of images that the data set already has become annotations."""

from flows.labels.people import disagreements, read_words
from tasks.common.files import write_json
from tasks.common.params import load_params
from tests.support.checkout import ROOT
from tests.support.ingesting import annotations, folder, image, manifest, noise, samples, take, tree


def test_a_second_label_is_an_annotation_once(tmp_path):
    name = image(tmp_path / "s", "i.png", noise(1))
    take(tmp_path, manifest(tmp_path / "s", [{"path": name, "label": "cat"}]))
    other = manifest(tmp_path / "s", [{"path": name, "label": "dog"}], "n.csv")
    report = take(tmp_path, other)
    assert (report.taken, report.known, report.annotated) == (0, 1, 1)
    assert report.batch is not None
    assert annotations(tmp_path) == [(None, "dog", "import")]
    assert [row["label"] for row in samples(tmp_path)] == ["cat"]
    before = tree(tmp_path)
    assert take(tmp_path, other).annotated == 0
    assert take(tmp_path, tmp_path / "s" / "m.csv").annotated == 0
    assert tree(tmp_path) == before


def test_a_label_for_an_image_without_one_is_an_annotation(tmp_path):
    name = image(tmp_path / "s", "i.png", noise(1))
    take(tmp_path, tmp_path / "s")
    take(tmp_path, manifest(tmp_path / "s", [{"path": name, "label": "cat"}]))
    assert annotations(tmp_path) == [(None, "cat", "import")]


def test_every_named_annotator_votes_once(tmp_path):
    name = image(tmp_path / "s", "i.png", noise(1))
    said = [("anna", "cat"), ("bob", "dog"), ("carl", "dog"), ("bob", "dog")]
    source = manifest(tmp_path / "s", [{"path": name, "label": label, "annotator": who} for who, label in said])
    report = take(tmp_path, source)
    assert (report.taken, report.known) == (1, 3)
    assert annotations(tmp_path) == [("anna", "cat", "import"), ("bob", "dog", "import"), ("carl", "dog", "import")]
    before = tree(tmp_path)
    assert take(tmp_path, source).batch is None
    assert tree(tmp_path) == before


def test_a_reviewer_can_confirm_a_label_and_change_their_mind(tmp_path):
    name = image(tmp_path / "s", "i.png", noise(1))
    for number, label in enumerate(("cat", "cat", "dog", "cat", "cat")):
        source = manifest(tmp_path / "s", [{"path": name, "label": label}], f"{number}.csv")
        take(tmp_path, source, kind="review" if number else "import", annotator="eve" if number else None)
    assert annotations(tmp_path) == [("eve", "cat", "reviewer"), ("eve", "dog", "reviewer"), ("eve", "cat", "reviewer")]


def test_a_tombstoned_batch_is_still_known(tmp_path):
    source = folder(tmp_path / "s", 3)
    batch = take(tmp_path, source).batch
    write_json(tmp_path / "tombstones.json", {batch: {"why": "bad"}})
    report = take(tmp_path, source)
    assert (report.taken, report.known, report.tombstoned) == (0, 3, 3)
    assert "3 of them in tombstoned batches" in report.sentence()


def test_an_image_in_two_class_folders_gets_neither_label_and_is_asked_about(tmp_path):
    source = folder(tmp_path / "s", 12)
    for twin in ("a/0000.png", "a/0002.png"):
        image(source, f"b/twin-{twin[2:]}", (source / twin).read_bytes())
    image(source, "a/copy.png", (source / "b/0001.png").read_bytes())
    report = take(tmp_path, source)
    assert (report.taken, report.known, report.unlabelled, report.annotated) == (12, 3, 3, 6)
    (note,) = (line for line in report.notes if "contradictory labels" in line)
    assert note.startswith("note: 3 images are in the source with contradictory labels (e.g. a/0000.png: a and b)")
    unsure = {row["image"]["path"] for row in samples(tmp_path) if row["label"] is None}
    assert unsure == {"a/0000.png", "a/0002.png", "a/copy.png"}
    words = read_words(tmp_path, load_params(ROOT / "params.yaml"))
    found = disagreements(words)
    assert len(found) == 3
    assert all(words.now()[name] is None for name in found)
    assert take(tmp_path, source).batch is None  # nothing is new


def test_a_persons_vote_settles_a_contradiction(tmp_path):
    names = [image(tmp_path / "s", name, noise(1)) for name in ("x.png", "y.png")]
    manifest(tmp_path / "s", [{"path": name, "label": label} for name, label in zip(names, "ab", strict=True)])
    assert take(tmp_path, tmp_path / "s/m.csv").unlabelled == 1
    take(tmp_path, manifest(tmp_path / "s", [{"path": "x.png", "label": "b", "annotator": "anna"}]))
    assert set(read_words(tmp_path, load_params(ROOT / "params.yaml")).now().values()) == {"b"}


def test_named_annotators_who_differ_in_one_source_do_not_contradict_it(tmp_path):
    name = image(tmp_path / "s", "x.png", noise(1))
    said = [{"path": name, "label": label, "annotator": who} for label, who in (("a", "anna"), ("b", "bob"))]
    report = take(tmp_path, manifest(tmp_path / "s", said))
    assert (report.unlabelled, report.notes) == (0, ())
