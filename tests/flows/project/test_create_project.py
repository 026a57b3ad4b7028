"""`evergreen init`: a new project with parameters that fit the data."""

import os
import subprocess
from collections import defaultdict
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from flows.cli.main import app
from flows.project.create import fit_params, init_project
from flows.project.hidden_groups import hidden_group_notes
from flows.project.origin import NEEDED
from flows.project.source_profile import profile_source
from flows.project.suggest import layout_notes, slug, suggest_params
from tasks.common.errors import DataError, EvergreenError
from tasks.common.params import Params, load_params, parse_params
from tasks.ingest.batch import ingest
from tests.support.ingesting import noise, samples
from tests.support.photos import cutouts, encode, tracks


@pytest.fixture(autouse=True)
def _with_a_gpu(monkeypatch):
    """Sizes are asserted as on a machine with one, whatever runs these tests."""
    monkeypatch.setattr("flows.project.suggest.accelerated", lambda: True)


def photos(root: Path, classes: dict[str, int], side: int = 200, grey: bool = False) -> Path:
    """Class folders with so many images each."""
    parts = cutouts(10)
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            image = parts[number % 10].resize((side, side)).rotate(number // 10)
            (root / name / f"{number}.png").write_bytes(encode(image.convert("L") if grey else image))
    return root


def fitted(source: Path) -> Params:
    return parse_params(yaml.safe_load(fit_params(source)))


def test_photos_in_class_folders(tmp_path):
    source = photos(tmp_path / "Bird Photos (2024)", {"owl": 12, "swan": 4})
    params = fitted(source)
    assert params.data.task == "multiclass"
    assert (params.images.resolution, params.images.fit) == (224, "squash")
    assert params.train_backbone.augment == ["crop", "flip", "colour"]
    assert params.bundle.name == "bird-photos-2024"
    assert params.validate_.min_rows < 16  # the default of 50 would refuse every run
    assert params.validate_.min_per_class == {"train": 1, "calibration": 0, "test": 0}
    assert params.train_backbone.epochs.model_dump() == {"frozen": 0, "last": 0, "all": 15}


def test_the_text_says_what_was_seen_and_describes_every_key(tmp_path):
    text = fit_params(photos(tmp_path / "s", {"owl": 6, "swan": 4}, side=90))
    assert "# fitted: 10 rows, 10 labelled, 2 classes, one label per row" in text
    assert "# fitted: the median shorter side is 90 pixels" in text
    assert "# side S of the model's S x S input, pixels" in text
    assert max(map(len, text.splitlines())) <= 120
    values = yaml.safe_load(text)
    for name, section in parse_params(values).model_dump(by_alias=True).items():
        assert set(values[name]) == set(section)


def test_without_a_gpu_the_size_stays_trainable(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.project.suggest.accelerated", lambda: False)
    source = photos(tmp_path / "s", {"a": 3}, 300)
    assert fitted(source).images.resolution == 128
    assert "no GPU here" in fit_params(source)


@pytest.mark.parametrize(("side", "size"), [(28, 64), (80, 64), (100, 96), (150, 128), (300, 224)])
def test_size_follows_the_images(tmp_path, side, size):
    assert fitted(photos(tmp_path / "s", {"a": 3}, side)).images.resolution == size


def test_grey_images_of_characters_are_neither_mirrored_nor_coloured(tmp_path):
    params = fitted(photos(tmp_path / "s", {"3": 3, "7": 3}, 28, grey=True))
    assert params.train_backbone.augment == ["crop"]


@pytest.mark.parametrize(("names", "advised"), [(["stop sign", "yield"], True), (["owl", "swan"], False)])
def test_classes_named_like_signs_get_advice_on_the_domain_and_no_setting(tmp_path, names, advised):
    source = photos(tmp_path / "s", dict.fromkeys(names, 3))
    assert fitted(source).train_backbone.domain is None
    assert ("a mirrored one is another one" in " ".join(fit_params(source).split()).replace(" # ", " ")) is advised


def test_wide_images_are_padded(tmp_path):
    image = cutouts(1)[0].resize((200, 80))
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.png").write_bytes(encode(image))
    assert fitted(tmp_path / "s").images.fit == "pad"


def test_small_images_do_not_break_the_expectations_written_for_them(tmp_path):
    source = photos(tmp_path / "s", {"a": 3}, side=12)
    assert [e.kwargs["min_value"] for e in fitted(source).validate_.expectations[:2]] == [12, 12]


@pytest.mark.parametrize(("labels", "task"), [(["a", "b"], "multiclass"), (["a|b", "b"], "multilabel")])
def test_several_labels_per_row_make_the_task_multilabel(tmp_path, labels, task):
    source = photos(tmp_path / "s", {"x": 2})
    lines = [f"x/{number}.png,{label}" for number, label in enumerate(labels)]
    (source / "m.csv").write_text("\n".join(["path,label", *lines]))
    params = fitted(source / "m.csv")
    assert params.data.task == task


def test_broken_images_are_passed_over_unless_all_are(tmp_path):
    source = photos(tmp_path / "s", {"a": 2})
    (source / "a" / "half.png").write_bytes((source / "a" / "0.png").read_bytes()[:300])
    (source / "a" / "no.png").write_bytes(b"no")
    assert fitted(source).images.resolution == 224
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "no.png").write_bytes(b"no")
    with pytest.raises(DataError, match=r"none of 1 sampled images can be opened, e.g. no.png: unknown_format"):
        fit_params(tmp_path / "t")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Cats & Dogs", "cats-dogs"), ("2024", "model-2024"), ("猫", "model"), ("x" * 80, "x" * 63), ("_a_", "a")],
)
def test_slugs_fit_their_pattern(name, expected):
    assert slug(name) == expected


@pytest.fixture
def template(tmp_path) -> Path:
    """A checkout that has every file a project needs, some that it does not, and one that git ignores."""
    root = tmp_path / "template"
    for name in NEEDED:
        file = root / (f"{name}module.py" if name.endswith("/") else name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("*.pyc\n" if name == ".gitignore" else f"{name}\n")
    for name in ("datasets/base.parquet", "docs/page.md", "data.dvc", "CHANGELOG.md", "tests/test_x.py", "flows/x.pyc"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("of Evergreen itself\n")
    (root / "tombstones.json").write_text('{"b-1": {"why": "of the template"}}')
    git(root, "init", "-q")
    git(root, "add", "-A")
    return root


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_project_is_a_repository_with_what_it_needs(tmp_path, template):
    source = photos(tmp_path / "birds", {"owl": 6, "swan": 6})
    init_project(tmp_path / "mine", source, template)
    tracked = set(git(tmp_path / "mine", "ls-files").splitlines())
    needed = {f"{name}module.py" if name.endswith("/") else name for name in NEEDED}
    assert tracked == needed | {"params.yaml", "tombstones.json", "README.md", "evergreen.json"}
    assert (tmp_path / "mine" / "tombstones.json").read_text() == "{}\n"
    assert git(tmp_path / "mine", "status", "--porcelain") == ""
    assert git(tmp_path / "mine", "log", "--format=%s") == "Start the project from Evergreen's template"
    params = load_params(tmp_path / "mine" / "params.yaml")
    assert params.bundle.name == "birds"
    report = ingest(tmp_path / "mine", source, data=params.data, images=params.images, inspect=params.inspect)
    assert report.taken + len(report.quarantined) + report.known == 12


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path, template):
    source = photos(tmp_path / "birds", {"owl": 3})
    target = tmp_path / "mine"
    target.mkdir()
    (target / "thesis.txt").write_text("do not lose me")
    with pytest.raises(EvergreenError, match="mine is not empty"):
        init_project(target, source, template)
    assert [file.name for file in target.iterdir()] == ["thesis.txt"]
    with pytest.raises(EvergreenError, match="lies inside"):
        init_project(template / "mine", source, template)


def test_what_fails_leaves_the_target_as_it_was(tmp_path, template):
    source = photos(tmp_path / "birds", {"owl": 3})
    (template / "Makefile").unlink()
    with pytest.raises(EvergreenError, match="not a complete checkout of Evergreen: it lacks Makefile"):
        init_project(tmp_path / "mine", source, template)
    with pytest.raises(DataError, match="does not exist"):
        init_project(tmp_path / "mine", tmp_path / "nothing", template)
    assert not (tmp_path / "mine").exists()


def test_without_a_git_identity_evergreen_commits_and_configures_nothing(tmp_path, template, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in [name for name in os.environ if name.startswith(("GIT_AUTHOR", "GIT_COMMITTER")) or name == "EMAIL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_DIR", str(template / ".git"))  # as inside a git hook
    notes = init_project(tmp_path / "mine", photos(tmp_path / "birds", {"owl": 3, "swan": 3}), template).notes
    assert notes[0] == "understood: 2 classes from folder names (owl, swan)"
    said = "\n".join(notes)
    assert "images.resolution: 224: the median shorter side is 200 pixels" in said
    assert "train_backbone.augment: crop, flip, colour: remove flip if a mirrored image" in said
    assert "data.split: 0.7 train, 0.15 calibration, 0.15 test: no " in said
    assert any("git has no user.name" in note for note in notes)
    monkeypatch.delenv("GIT_DIR")
    assert git(tmp_path / "mine", "log", "--format=%an <%ae>") == "Evergreen <evergreen@localhost>"
    assert list(home.iterdir()) == []
    assert "user" not in git(tmp_path / "mine", "config", "--local", "--list")


def test_a_project_is_named_after_its_folder_where_the_data_has_no_name_of_its_own(tmp_path, template):
    photos(tmp_path / "photos", {"owl": 3, "swan": 3})
    rows = [f"{f.relative_to(tmp_path)},{f.parent.name}" for f in tmp_path.rglob("*.png")]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    init_project(tmp_path / "my Birds", tmp_path / "labels.csv", template)
    assert load_params(tmp_path / "my Birds" / "params.yaml").bundle.name == "my-birds"
    assert "fitted: None" not in (tmp_path / "my Birds" / "params.yaml").read_text()


def in_views(root: Path, classes: tuple[str, ...], objects: int = 2, views: int = 2) -> Path:
    """root/<class>/<object>_<view>.png, each object seen in so many views."""
    parts = cutouts(len(classes) * objects * views)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(objects):
            for view in range(views):
                (root / name / f"{number:05d}_{view:03d}.png").write_bytes(encode(parts.pop()))
    return root


def test_a_layout_is_reported_and_kept_for_later_ingests(tmp_path, template):
    source = in_views(tmp_path / "signs", ("stop", "yield"))
    (source / "stop" / "overview.png").write_bytes(encode(cutouts(1)[0]))
    notes = init_project(tmp_path / "mine", source, template, layout="{class+group}/{group}_{view}").notes
    layout, misfits = [note for note in notes if "layout" in note][-2:]
    assert [layout, misfits] == [
        "layout {class+group}/{group}_{view}: 2 classes, 4 groups, 2 values of view",
        "note: 1 of 9 paths do not fit the layout and will be quarantined: 'stop/overview.png'",
    ]
    assert load_params(tmp_path / "mine" / "params.yaml").data.layout == "{class+group}/{group}_{view}"
    assert "# fitted: as given; it finds 2 classes" in (tmp_path / "mine" / "params.yaml").read_text()


def test_tracks_in_file_names_are_proposed_as_groups_and_the_proposal_works(tmp_path, template):
    source = tmp_path / "signs"
    for name, files in tracks(12, views=4).items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(encode(files))
    notes = init_project(tmp_path / "mine", source, template).notes
    assert any("96 of 96 images share an object, track or session" in note for note in notes)
    (line,) = (note for note in notes if "layout:" in note)
    layout = yaml.safe_load(line)["layout"]
    assert layout == "{class+group}/{group}_{*}"
    params = load_params(tmp_path / "mine" / "params.yaml")
    sections = {"data": params.data, "images": params.images, "inspect": params.inspect}
    ingest(tmp_path / "mine", source, layout=layout, **sections)
    splits = defaultdict(set)
    for row in samples(tmp_path / "mine"):
        splits[row["group"]].add(row["split"])
    assert len(splits) == 24
    assert all(len(several) == 1 for several in splits.values())


@pytest.mark.parametrize(
    ("one_object", "layout"), [(False, "{class+group}/{group}_{*}"), (True, "{class}/{group}_{*}")]
)
def test_numbers_of_tracks_that_several_classes_share(tmp_path, monkeypatch, one_object, layout):
    """The sample has one class only; whether equal numbers mean one object is looked up in the others."""
    monkeypatch.setattr("flows.project.hidden_groups.LOOKED_AT", 48)
    source, images = tmp_path / "s", tracks(24, views=2)
    for name, image in images.items():
        for copy, folder in enumerate(("china", "copy") if name.startswith("china") else ()):
            shown = image if one_object or not copy else images[name.replace("china", "flower")]
            (source / folder).mkdir(parents=True, exist_ok=True)
            (source / folder / name.split("/")[1]).write_bytes(encode(shown.rotate(2 * copy)))
    assert profile_source(source).pattern.template == layout


def test_bursts_of_one_camera_are_reported(tmp_path):
    start, source = datetime(2024, 5, 3, 12), tmp_path / "s"
    for number, (name, image) in enumerate(tracks(12, views=4).items()):
        exif = Image.Exif()
        exif[0x0110], exif[0x0132] = (
            "X100",
            f"{start + timedelta(minutes=number // 4, seconds=number % 4):%Y:%m:%d %H:%M:%S}",
        )
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).with_name(f"IMG_{number:04d}.jpg").write_bytes(encode(image, "JPEG", exif=exif))
    first, *rest = hidden_group_notes(profile_source(source).pattern)
    assert "96 of 96 images were taken within 5 seconds of another by the same camera (EXIF): 24 bursts" in first
    assert "a manifest with a column `group`" in rest[-1]


@pytest.mark.parametrize("kind", ["counter", "random"])
def test_names_without_meaning_propose_nothing(tmp_path, kind):
    source = tmp_path / "s"
    rng = np.random.default_rng(0)
    for number, (name, image) in enumerate(tracks(12, views=4).items()):
        stem = f"IMG_{number:04d}" if kind == "counter" else rng.bytes(16).hex()
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).with_name(f"{stem}.png").write_bytes(encode(image))
    assert profile_source(source).pattern is None


def test_classes_with_too_few_groups_are_named_before_the_first_ingest(tmp_path):
    source = in_views(tmp_path / "signs", ("stop", "yield"), objects=2, views=1)
    first, advice = profile_source(source, layout="{class+group}/{group}_{*}").group_notes[-2:]
    assert "2 of 2 classes do not reach every split: 'stop' (2 images or groups) not in calibration" in first
    assert "bring 3 of each class" in advice
    assert profile_source(source, layout="{class}/{*}").group_notes == ()
    many = tmp_path / "many"
    for number in range(80):
        file = many / ("stop", "yield")[number % 2] / f"{number % 4:05d}_{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encode(noise(number)))
    (support, alone) = (
        suggest_params(profile_source(many, layout=layout))[0].validate_.min_per_class
        for layout in ("{class+group}/{group}_{*}", "{class}/{*}")
    )
    assert (support["calibration"], alone["calibration"]) == (0, 1)


def test_layout_none_is_the_way_out_that_the_error_names(tmp_path, template):
    source = photos(tmp_path / "birds", {"owl": 6, "swan": 6})
    with pytest.raises(DataError, match=r"none of its paths fits the layout.*--layout none"):
        init_project(tmp_path / "mine", source, template, layout="{site}/{class}/{name}")
    init_project(tmp_path / "mine", source, template, layout="none")
    assert load_params(tmp_path / "mine" / "params.yaml").data.layout is None


def test_a_slice_with_a_value_per_image_is_advised_against(tmp_path):
    source = photos(tmp_path / "s", {"a": 25, "b": 25})
    (note,) = layout_notes(profile_source(source, layout="{class}/{frame}"))[1:]
    assert note.startswith("note: 25 values of frame in 50 images: too many for a slice; write {*}")


def test_a_hostile_folder_name_stays_a_comment(tmp_path):
    source = photos(tmp_path / "x\ngate: {margin: 1}", {"a": 2})
    assert fitted(source).gate.margin != 1


def test_a_project_is_not_a_template(template, tmp_path):
    """Its own changes would be recorded as Evergreen's, and the next upgrade would drop them."""
    (template / "evergreen.json").write_text("{}")
    with pytest.raises(EvergreenError, match="run `evergreen init` of a clone of Evergreen"):
        init_project(tmp_path / "second", photos(tmp_path / "s", {"a": 3, "b": 3}), template)
    assert not (tmp_path / "second").exists()


def test_from_a_folder_without_classes_to_the_first_labels(tmp_path, monkeypatch):
    made = photos(tmp_path / "made", {"bird": 12})
    source, run = tmp_path / "shots", CliRunner()
    source.mkdir()
    for file in (made / "bird").iterdir():
        file.rename(source / file.name)
    found = run.invoke(app, ["init", str(tmp_path / "mine"), "--data", str(source), "--fast"])
    assert found.exit_code == 0, found.output
    assert "note: none of 12 images has a label: people give the first ones" in found.output
    begin, *_, label = [line.strip() for line in found.output.splitlines() if line.startswith("  ")]
    assert begin.endswith(f"evergreen ingest {source} && evergreen queue --pick-data 100 --html label.html")
    assert label == "evergreen label FILE && evergreen retrain"

    monkeypatch.chdir(tmp_path / "mine")
    for name in ("user.name", "user.email"):
        git(tmp_path / "mine", "config", name, "ann@localhost")
    taken = run.invoke(app, ["ingest", str(source)])
    assert taken.exit_code == 0, taken.output
    rows = [(file.name, ("owl", "swan")[number % 2]) for number, file in enumerate(sorted(source.iterdir()))]
    (tmp_path / "first.csv").write_text("".join(f"{name},{word}\n" for name, word in [("path", "label"), *rows]))
    given = run.invoke(app, ["label", str(tmp_path / "first.csv")])
    assert "data set: took 12 answers about samples" in given.output
    assert "owl" in run.invoke(app, ["why", rows[0][0]]).output


def timed(root: Path, count: int = 12) -> Path:
    """A manifest of two classes whose images were taken one day apart."""
    root.mkdir()
    lines = ["path,label,taken_at"]
    for number in range(count):
        (root / f"{number}.png").write_bytes(encode(noise(number)))
        lines.append(f"{number}.png,{'ab'[number % 2]},2026-01-{number + 1:02d}T12:00:00Z")
    (root / "m.csv").write_text("\n".join(lines))
    return root / "m.csv"


def test_images_with_times_can_be_tested_on_the_newest(tmp_path):
    source, root = timed(tmp_path / "s"), Path(__file__).resolve().parents[3]
    assert "`by: time` would test on the newest" in fit_params(source)
    made = init_project(tmp_path / "p", source, root, by_time=True)
    params = load_params(tmp_path / "p" / "params.yaml")
    assert params.data.split.by == "time"
    assert any("data.split: 0.7 train, 0.15 calibration, 0.15 test, the newest" in note for note in made.notes)
    ingest(tmp_path / "p", source, data=params.data, images=params.images, inspect=params.inspect)
    days = {}
    for row in samples(tmp_path / "p"):
        days.setdefault(row["split"], []).append(row["taken_at"])
    assert max(days["train"]) < min(days["calibration"])
    assert max(days["calibration"]) < min(days["test"])
    without = photos(tmp_path / "t", {"a": 3, "b": 3})
    with pytest.raises(EvergreenError, match="--by-time: none of 6 images"):
        init_project(tmp_path / "q", without, root, by_time=True)
    assert not (tmp_path / "q").exists()
