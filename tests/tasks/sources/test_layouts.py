"""Layouts: what a template reads from a path, and what it refuses."""

import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.common.errors import DataError
from tasks.sources.fields import Unusable
from tasks.sources.layouts import parse_layout
from tasks.sources.records import Columns
from tasks.sources.source import open_source
from tests.tasks.sources.test_sources import png, tree


@pytest.mark.parametrize(
    ("template", "path", "found"),
    [
        ("{class}/{name}", "cat/a.b.jpg", {"class": "cat", "name": "a.b"}),
        (
            "{site}/{camera}/{class}/{name}",
            "x/c1/cat/a.png",
            {"site": "x", "camera": "c1", "class": "cat", "name": "a"},
        ),
        ("{class}/{group}_{*}.png", "cat/t_1_07.png", {"class": "cat", "group": "t_1"}),
        ("{class}/{group}_{*}", "cat/t1_07.JPEG", {"class": "cat", "group": "t1"}),
        ("{class+group}/{group}_{*}", "cat/t1_07.ppm", {"class": "cat", "group": "cat/t1"}),
        ("{*}/{class}/{**}/{name}", "v2/cat/n.png", {"class": "cat", "name": "n"}),
        ("{*}/{class}/{**}/{name}", "v2/cat/a/b/n.png", {"class": "cat", "name": "n"}),
        ("{**}/{class}-{name}", "a/b/cat-n.png", {"class": "cat", "name": "n"}),
        ("P{patient}C{*}_{class}", "P07C2_ill.png", {"patient": "07", "class": "ill"}),
        ("{{x}}/{class}", "{x}/cat.png", {"class": "cat"}),
        ("{class}/aa{name}aa", "cat/aaaaa.png", {"class": "cat", "name": "a"}),
        ("{größe}/{class}/{name}", "klein/猫/a", {"größe": "klein", "class": "猫", "name": "a"}),
    ],
)
def test_a_template_reads_its_fields(template, path, found):
    assert parse_layout(template).read(path) == found


@pytest.mark.parametrize(
    ("template", "path", "says"),
    [
        ("{class}/{name}", "a.png", "it has 0 folders, the layout 1 folder"),
        ("{class}/{name}", "a/b/c.png", "it has 2 folders, the layout 1 folder"),
        ("{class}/{**}/{name}", "c.png", "it has 0 folders, the layout 1 folder"),
        ("{class}/{group}_{*}", "a/b-c.png", r"'b-c' is not like '\{group\}_\{\*\}'"),
        ("{class}/{group}_{*}", "a/_c.png", "'_c' is not like"),
        ("{class}/{group}_{*}", "a/c_.png", "'c_' is not like"),
        ("{class}/{name}.png", "a/c.jpg", "'c.jpg' is not like"),
        ("{class}/aa{name}aa", "a/aaaa.jpg", "'aaaa' is not like"),
        ("v1/{class}/{name}", "v2/c/x.jpg", "'v2' is not like 'v1'"),
    ],
)
def test_a_path_that_does_not_fit_says_where(template, path, says):
    with pytest.raises(Unusable, match=f"bad_path: '{path}' does not fit the layout .*: {says}"):
        parse_layout(template).read(path)


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("", "must be relative"),
        ("/data/{class}/{name}", "must be relative"),
        ("{class}//{name}", "must be relative"),
        ("images/a", "it names no field"),
        ("{*}/{*}", "it names no field"),
        ("{class}{group}/{name}", r"nothing separates \{group\}"),
        ("{class/{name}", "write {{ and }} for braces"),
        ("{class}/{}", "is not the name of a field"),
        ("{class}/{0.a}", "is not the name of a field"),
        ("{class}/{name:3}", "has ':' or '!' in it"),
        ("{class}/{class}_{*}", r"\{class\} occurs twice; write \{\*\}"),
        ("{class}/{**}", "before the file's name"),
        ("{**}/{class}/{**}/{name}", "may stand once"),
        ("{class}/a{**}/{name}", "is not the name of a field"),
        ("{label}/{name}", r"write \{class\} if you mean that"),
        ("{clas}/{name}", r"write \{class\} if you mean that"),
        ("{a}" + "/{a}" * 400, "at most 1000 are allowed"),
    ],
)
def test_a_template_that_cannot_be_used_says_why_and_shows_one(template, says):
    with pytest.raises(DataError, match=f'{says}.*expected e.g. "{{class}}/{{name}}"'):
        parse_layout(template)


@pytest.mark.parametrize(
    "template", ["{class}/{group}_{*}", "{class+group}/{group}-{time}.png", "{a}/{**}/{class}/{*}"]
)
def test_the_example_of_a_layout_fits_it(template):
    layout = parse_layout(template)
    assert set(layout.read(layout.example())) == set(layout.fields)


TEXT = st.text(alphabet="ab_-", min_size=1, max_size=8)


@given(values=st.lists(TEXT, min_size=1, max_size=4), literals=st.lists(TEXT, min_size=5, max_size=5))
def test_what_a_template_wrote_fits_it_again(values, literals):
    """Not always with the same values: "a_b_c" fits {x}_{y} in two ways, of which the first field's longest counts."""
    names = [f"s{number}" for number in range(len(values))]
    template = "".join(f"{literal}{{{name}}}" for literal, name in zip(literals, names, strict=False)) + literals[-1]
    path = "".join(f"{literal}{value}" for literal, value in zip(literals, values, strict=False)) + literals[-1]
    found = parse_layout(template).read(path)
    again = "".join(f"{literal}{found[name]}" for literal, name in zip(literals, names, strict=False)) + literals[-1]
    assert again == path
    assert all(found.values())


def test_hostile_paths_take_linear_time():
    layout = parse_layout("{a}_x{b}_x{c}_x{d}_x{class}y")
    started = time.process_time()
    with pytest.raises(Unusable):
        layout.read("_x" * 500_000)
    assert time.process_time() - started < 1


SIGNS = ("yield/00017_00000.png", "yield/00017_00001.png", "stop/00017_00000.png")


def test_folders_are_read_as_the_layout_says(tmp_path):
    root = tree(tmp_path, {name: png(n) for n, name in enumerate(SIGNS)})
    found = list(open_source(root, layout="{class+group}/{group}_{view}").rows())
    assert [(r.path, r.label, r.group, dict(r.slices)) for r in found] == [
        ("stop/00017_00000.png", "stop", "stop/00017", {"view": "00000"}),
        ("yield/00017_00000.png", "yield", "yield/00017", {"view": "00000"}),
        ("yield/00017_00001.png", "yield", "yield/00017", {"view": "00001"}),
    ]
    assert found[1].read() == png(0)


def test_a_layout_without_class_leaves_images_without_label(tmp_path):
    root = tree(tmp_path, {"c1/a.png": png(1)})
    (row,) = open_source(root, layout="{source}/{name}").rows()
    assert (row.label, row.source, row.group) == (None, "c1", None)


def test_splits_and_times_come_from_the_path(tmp_path):
    names = ("cat/2024-05-03/train_1.png", "cat/20240504/test_2.png", "cat/soon/train_3.png", "cat/20240504/old_4.png")
    root = tree(tmp_path, {name: png(n) for n, name in enumerate(names)})
    found = {r.path: r for r in open_source(root, layout="{class}/{time}/{split}_{*}").rows()}
    first, second, third, fourth = (found[name] for name in names)
    assert (first.split, f"{first.taken_at:%d.%m.%Y}") == (("train", "calibration"), "03.05.2024")  # no folder val
    assert (second.split, f"{second.taken_at:%d.%m.%Y}") == (("test",), "04.05.2024")
    assert (third.refused, third.taken_at, third.bad_time) == (None, None, "soon")
    assert fourth.refused.reason == "bad_split"


def test_paths_that_do_not_fit_are_refused_one_by_one_and_all_at_once(tmp_path):
    root = tree(tmp_path, {"cat/a_1.png": png(1), "cat/b.png": png(2)})
    kept, refused = open_source(root, layout="{class}/{group}_{*}").rows()
    assert (kept.refused, refused.refused.reason) == (None, "bad_path")
    with pytest.raises(DataError, match=r"none of its paths fits the layout, e.g. 'cat/a_1.png'.*'x/class/name.jpg'"):
        open_source(root, layout="{*}/{class}/{name}")


def test_a_manifests_own_columns_win_over_its_paths(tmp_path):
    files = {"c1/cat_1.png": png(1), "c1/dog_2.png": png(2), "c2/odd.png": png(3)}
    tree(
        tmp_path,
        files | {"m.csv": "path,label,slice_site\n" + "".join(f"{f},,\n" for f in files) + "c1/cat_1.png,owl,n\n"},
    )
    found = list(open_source(tmp_path / "m.csv", layout="{site}/{class}_{*}").rows())
    assert [(r.label, dict(r.slices)) for r in found] == [
        ("cat", {"site": "c1"}),
        ("dog", {"site": "c1"}),
        (None, {}),
        ("owl", {"site": "n"}),
    ]
    assert found[2].refused.reason == "bad_path"


def test_a_manifest_needs_no_label_column_where_the_path_has_the_class(tmp_path):
    tree(tmp_path, {"cat/1.png": png(1), "m.csv": "path\ncat/1.png\n"})
    with pytest.raises(DataError, match="no label column"):
        open_source(tmp_path / "m.csv", layout="{site}/{name}")
    assert [r.label for r in open_source(tmp_path / "m.csv", layout="{class}/{name}").rows()] == ["cat"]


def test_names_stored_with_images_in_parquet_are_read_too(tmp_path):
    images = [{"bytes": png(n), "path": name} for n, name in enumerate(SIGNS)]
    pq.write_table(pa.table({"image": images}), tmp_path / "signs.parquet")
    opened = open_source(tmp_path / "signs.parquet", Columns(), "{class+group}/{group}_{*}")
    assert [r.group for r in opened.rows(images=False)] == ["yield/00017", "yield/00017", "stop/00017"]
