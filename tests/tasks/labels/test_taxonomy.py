import itertools

import pyarrow as pa
import pytest

from tasks.common.errors import DataError
from tasks.common.files import write_json
from tasks.labels import taxonomy
from tasks.labels.changes import FOLDER, Change, ChangeRefused, label_state, read_changes
from tasks.labels.reading import read_column, read_votes
from tasks.labels.taxonomy import Reading, compose


def changes(*steps) -> list[Change]:
    """Changes in order: (kind, old names, new names), or ("undo", place of the change)."""
    made: list[Change] = []
    for number, (kind, *rest) in enumerate(steps, 1):
        about = {"number": number, "at": f"2026-01-{number:02d}T00:00:00Z", "by": "ann", "why": "", "state": "s"}
        if kind == "undo":
            made.append(Change(kind=kind, undoes=made[rest[0]].id, **about))
        else:
            made.append(Change(kind=kind, old=rest[0].split(), new=rest[1].split(), **about))
    return made


def of(*steps):
    return compose(changes(*steps))


def test_a_name_that_no_change_mentions_reads_as_itself():
    assert of().read("cat") == Reading("cat")


def test_rename_then_merge_reads_every_earlier_name():
    found = of(("rename", "cat", "feline"), ("merge", "feline lion", "felid"))
    assert {name: found.rename(name) for name in ("cat", "feline", "lion", "felid", "dog")} == {
        "cat": "felid",
        "feline": "felid",
        "lion": "felid",
        "felid": "felid",
        "dog": "dog",
    }


def test_a_merge_may_keep_the_name_of_one_of_its_classes():
    found = of(("merge", "cat kitten", "cat"))
    assert found.current(["cat", "kitten", "dog"]) == ["cat", "dog"]


def test_a_split_leaves_old_labels_undecided_and_new_ones_decided():
    found = of(("split", "dog", "hound poodle"))
    assert found.read("dog") == Reading(None, ("hound", "poodle"))
    assert found.read("hound") == Reading("hound")


def test_a_split_of_a_merged_class_leaves_its_members_undecided():
    found = of(("merge", "cat dog", "pet"), ("split", "pet", "indoor outdoor"))
    assert found.read("cat").among == found.read("dog").among == found.read("pet").among == ("indoor", "outdoor")


def test_a_part_merged_with_another_class_is_decided_only_where_the_old_name_is():
    found = of(("split", "dog", "hound poodle"), ("merge", "hound wolf", "canine"))
    assert found.rename("wolf") == "canine"
    assert found.rename("hound") == "canine"
    assert found.read("dog").among == ("canine", "poodle")


def test_a_retired_class_reads_as_none_and_a_split_with_a_retired_part_stays_undecided():
    assert of(("retire", "dog", "")).read("dog") == Reading(None)
    found = of(("split", "dog", "hound poodle"), ("retire", "poodle", ""))
    assert found.read("dog") == Reading(None, ("hound",))


def test_columns_of_labels_are_read_name_by_name():
    found = of(("merge", "cat dog", "pet"), ("rename", "sky", "heaven"))
    lists = pa.chunked_array([pa.array([["cat", "dog", "sky"], [], None], pa.list_(pa.string()))])
    assert read_column(lists, found).to_pylist() == [["heaven", "pet"], [], None]
    plain = pa.chunked_array([pa.array(["cat", None, "sky", "sea"])])
    assert read_column(plain, found).to_pylist() == ["pet", None, "heaven", "sea"]
    assert read_column(plain, of()) is plain


def vote(label, annotator="ann", at=None) -> dict:
    return {"label": label, "annotator": annotator, "at": at}


def test_votes_are_counted_in_the_names_of_today():
    found = of(("merge", "cat kitten", "pet"))
    assert read_votes("cat", [vote("kitten"), vote(None)], found) == ("pet", [vote("pet"), vote(None)])


def test_after_a_split_a_word_for_a_part_decides_for_all_who_gave_the_whole():
    found = of(("split", "dog", "hound poodle"))
    assert read_votes("dog", [vote("dog", "bob"), vote("hound")], found) == (
        "hound",
        [vote("hound", "bob"), vote("hound")],
    )
    assert read_votes("dog", [vote("cat", "bob")], found) == ("dog", [vote("cat", "bob")]), "cat wins nothing by it"
    assert read_votes(["dog", "sky"], [vote(["hound", "sky"])], found) == (["hound", "sky"], [vote(["hound", "sky"])])


def test_of_two_words_for_parts_the_newer_decides_in_whatever_order_they_were_taken():
    found = of(("split", "dog", "hound poodle"))
    newer, older = vote("poodle", "ann", at=2), vote("hound", "bob", at=1)
    for rows in ([newer, older], [older, newer]):
        assert read_votes("dog", rows, found)[0] == "poodle"


def test_a_word_for_a_retired_class_still_counts():
    assert read_votes("cat", [vote("dog")], of(("retire", "dog", ""))) == ("cat", [vote("dog")])


def test_a_split_waits_until_every_part_is_supported():
    found = of(("split", "dog", "hound poodle"), ("rename", "poodle", "pudel"))
    waiting = found.whole(lambda name: name != "pudel")
    assert {name: waiting.rename(name) for name in ("dog", "hound", "poodle", "pudel")} == dict.fromkeys(
        ("dog", "hound", "poodle", "pudel"), "dog"
    )
    assert found.whole(lambda name: True).read("dog").among == ("hound", "pudel")


def test_nested_splits_wait_from_the_inside_out():
    found = of(("split", "dog", "hound poodle"), ("split", "hound", "big small"))
    inner = found.whole(lambda name: name != "small")
    assert (inner.rename("big"), inner.rename("poodle")) == ("hound", "poodle")
    outer = found.whole(lambda name: name not in ("small", "poodle"))
    assert (outer.rename("big"), outer.rename("poodle")) == ("dog", "dog")


def test_a_split_whose_part_was_merged_elsewhere_does_not_wait():
    found = of(("split", "dog", "hound poodle"), ("merge", "hound wolf", "canine"))
    assert found.whole(lambda name: False).rename("wolf") == "canine"


def test_undo_gives_the_old_reading_back_and_can_be_undone():
    steps = [("rename", "cat", "feline"), ("undo", 0)]
    assert of(*steps).read("cat") == Reading("cat")
    assert of(*steps, ("undo", 1)).rename("cat") == "feline"


def test_an_undo_that_a_later_change_needs_is_refused_with_that_change():
    steps = [("merge", "cat lion", "felid"), ("rename", "felid", "feline"), ("merge", "feline dog", "pet")]
    with pytest.raises(ChangeRefused, match=r"takes away the class 'feline', which change .* merged into 'pet'"):
        of(*steps, ("undo", 1))
    assert of(*steps, ("undo", 2), ("undo", 1)).rename("cat") == "felid"


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([("rename", "a", "b"), ("rename", "b", "a")], "gives the name 'a', which has a meaning already"),
        ([("rename", "a", "b"), ("rename", "a", "c")], "names 'a', which is not a class any more since change"),
        ([("merge", "a b", "c"), ("rename", "d", "b")], "gives the name 'b'"),
        ([("merge", "a b", "c"), ("add", "", "c")], "gives the name 'c'"),
        ([("split", "a", "a b")], "gives the name 'a'"),
        ([("split", "a", "b")], "has 1 new names, expected 2 or more"),
        ([("merge", "a", "b")], "has 1 old names"),
        ([("merge", "a a", "b")], "names a class twice"),
        ([("rename", "a", "a")], "gives the name 'a'"),
        ([("retire", "a", ""), ("merge", "a b", "c")], "names 'a'"),
        ([("group", "a b", "g"), ("group", "b c", "h")], "that the group 'g' has already"),
        ([("group", "a b", "g"), ("rename", "g", "h")], "is a group of classes"),
    ],
)
def test_cycles_and_clashes_are_refused_by_the_change_that_makes_them(steps, reason):
    made = changes(*steps)
    with pytest.raises(ChangeRefused, match=reason) as refused:
        compose(made)
    assert refused.value.change == made[-1]
    assert made[-1].id in str(refused.value)


def test_two_branches_that_changed_other_classes_give_one_reading_in_any_order():
    first = Change(number=1, kind="merge", old=["a", "b"], new=["ab"], at="2026-01-02", by="x", why="", state="s")
    second = Change(number=1, kind="rename", old=["c"], new=["d"], at="2026-01-01", by="y", why="", state="s")
    for order in itertools.permutations([first, second]):
        assert compose(order).current(["a", "b", "c"]) == ["ab", "d"]


def test_a_group_keeps_its_children_through_renames_merges_and_splits():
    found = of(
        ("group", "cat dog lion", "animal"),
        ("rename", "cat", "feline"),
        ("merge", "dog lion", "other"),
        ("split", "other", "big small"),
    )
    assert found.groups(["feline", "big", "car"]) == {"animal": ["feline", "big"]}
    assert found.groups(["feline", "car"]) == {}


def test_common_names_compare_answers_of_before_and_after_a_merge():
    found = of(("merge", "cat dog", "pet"))
    assert found.common(["cat", "dog", "car"], ["pet", "car"]) == {
        "cat": "pet",
        "dog": "pet",
        "pet": "pet",
        "car": "car",
    }


def test_common_names_compare_answers_of_before_and_after_a_split():
    found = of(("split", "dog", "hound poodle"))
    assert found.common(["dog", "cat"], ["hound", "poodle", "cat"]) == {
        "dog": "dog",
        "hound": "dog",
        "poodle": "dog",
        "cat": "cat",
    }
    assert found.common(["hound", "poodle"], ["hound"]) == {"hound": "hound", "poodle": "poodle"}


def test_common_names_join_what_a_split_and_a_merge_tie_together():
    found = of(("split", "dog", "hound poodle"), ("merge", "hound wolf", "canine"))
    together = found.common(["dog", "wolf"], ["canine", "poodle"])
    assert set(together.values()) == {"canine + poodle"}


def test_names_are_compared_composed():
    decomposed, composed = "e\u0301le\u0300ve", "\u00e9l\u00e8ve"
    found = of(("rename", decomposed, "pupil"))
    assert found.rename(composed) == found.rename(decomposed) == "pupil"


def test_listed_classes_must_be_those_of_today():
    found = of(("merge", "a b", "ab"), ("merge", "c d", "c"))
    assert taxonomy.agree(["ab", "c", "e"], found) == ["ab", "c", "e"]
    with pytest.raises(DataError, match=r"data.classes lists 'a'.*merged into 'ab'.*\['ab', 'c', 'e'\]"):
        taxonomy.agree(["a", "b", "c", "e"], found)


def test_a_split_that_waits_may_be_listed_by_its_parts_or_as_the_whole():
    found = of(("split", "a", "a1 a2")).whole(lambda name: False)
    assert taxonomy.agree(["a1", "a2", "b"], found) == taxonomy.agree(["a", "b"], found) == ["a", "b"]


def test_changes_are_read_in_order_whatever_the_files_are_called(tmp_path):
    made = changes(("rename", "cat", "feline"), ("merge", "feline lion", "felid"))
    for name, change in zip(("b", "a"), made, strict=True):
        write_json(tmp_path / FOLDER / f"{name}.json", {"schema": 1, **change.model_dump(mode="json")})
    assert read_changes(tmp_path) == made


def test_a_file_that_is_not_a_change_and_one_of_a_newer_evergreen_are_named(tmp_path):
    file = tmp_path / FOLDER / "000001-x.json"
    for content, reason in (([], "is not a change"), ({"kind": "?"}, "is not a change"), ({"schema": 2}, "newer")):
        write_json(file, content)
        with pytest.raises(Exception, match=reason) as error:
            read_changes(tmp_path)
        assert file.name in str(error.value)


def test_changes_of_the_present_state_of_the_data_are_pending(tmp_path):
    before = label_state(tmp_path)
    about = {"number": 1, "at": "2026-01-01", "by": "x", "why": "", "state": before}
    change = Change(kind="rename", old=["a"], new=["b"], **about)
    write_json(tmp_path / FOLDER / "000001-x.json", change.model_dump(mode="json"))
    assert label_state(tmp_path) == before, "a change of classes is not a new label"
    assert taxonomy.read_taxonomy(tmp_path, before).rename("a") == "a"
    assert taxonomy.read_taxonomy(tmp_path).rename("a") == "b"
    write_json(tmp_path / "annotations/batches/000001-x.json", {})
    assert taxonomy.read_taxonomy(tmp_path, label_state(tmp_path)).rename("a") == "b"
