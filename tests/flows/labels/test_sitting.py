"""What people are shown next, who else sees it, and what becomes of their answers."""

import shutil
from datetime import UTC, date, datetime, timedelta

import pytest

from flows.labels import journal
from flows.labels.queues import Entry, Place, Queues
from flows.labels.sitting import (
    RETRACTED,
    STANDS,
    WITHDRAWN,
    Who,
    check_label,
    count_left,
    for_person,
    give,
    next_images,
    open_entries,
    take_back,
)
from flows.labels.sitting_images import Likelihoods, by_likelihood, read_image
from flows.labels.sitting_store import LEASE, Hidden, Sittings
from flows.production.finish import finish
from monitoring.review.asked import Asked
from monitoring.review.assignments import Assignment, assign
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.dataset.decode import decode
from tasks.labels.taxonomy import UNCHANGED
from tasks.releases.store import open_store
from tests.flows.labels.corrections import standing_label
from tests.support.checkout import git
from tests.support.children import killed_at, start
from tests.support.label_queues import other, project, the_log, waiting_in

NOON = datetime(2026, 11, 27, 12, tzinfo=UTC)
NOTHING = Hidden(frozenset(), frozenset(), frozenset(), frozenset(), frozenset())
ANN, BOB, EVE = Who("ann"), Who("bob"), Who("eve", reviewer=True)


def entry(name: str, why: str = "unsure", **about) -> Entry:
    return Entry(about.pop("queue", "production"), Asked(id=name, why=why), Place(), **about)


def held(person: str, *ids: str, due: date | None = None) -> dict[str, Assignment]:
    return {name: Assignment(person=person, due=due, ids=ids, at=NOON, by="x") for name in ids}


def ids(entries) -> list[str]:
    return [one.id for one in entries]


def test_what_was_assigned_to_me_comes_first_and_what_others_have_does_not_come():
    entries = [entry(name) for name in "abcde"]
    holders = held("bob", "a") | held("ann", "c", due=date(2026, 12, 2)) | held("ann", "e", due=date(2026, 12, 1))
    assert ids(for_person(entries, ANN, holders, NOTHING)) == ["e", "c", "b", "d"]
    assert ids(for_person(entries, BOB, holders, NOTHING)) == ["a", "b", "d"]
    found = count_left(entries, ANN, holders, NOTHING)
    assert (found.all, found.free, found.mine, found.due, found.others) == (5, 4, 2, date(2026, 12, 1), 1)


def test_answered_leased_skipped_and_passed_images_do_not_come(tmp_path):
    entries = [entry(name) for name in "abcdef"]
    hidden = Hidden(*map(frozenset, ("a", "b", "c", "c", "d")))
    left = open_entries(entries, {"e"}, hidden)
    assert ids(left) == ["a", "b", "c", "f"]
    assert ids(for_person(left, ANN, {}, hidden)) == ["f"]
    found = count_left(left, ANN, {}, hidden)
    assert (found.looked_at, found.put_aside) == (1, 2)


def test_an_image_that_its_person_passed_on_is_free_for_the_others():
    hidden = Hidden(frozenset(), frozenset(), frozenset(), frozenset("a"), frozenset())
    assert ids(for_person([entry("a")], BOB, held("ann", "a"), hidden)) == ["a"]


def test_a_second_look_is_by_another_person_than_the_first():
    entries = [entry("a", "second look", queue="issues", voters=frozenset(["ann"]))]
    entries += [entry("b", "looks wrong", queue="issues", voters=frozenset(["ann"]))]
    assert ids(for_person(entries, ANN, {}, NOTHING)) == ["b"]
    assert ids(for_person(entries, BOB, {}, NOTHING)) == ["a", "b"]
    assert entries[0].blind
    assert not entries[1].blind


def lease_all(root, who: str, names: list[str]) -> None:
    store = Sittings(root)
    (root / f"{who}.txt").touch()  # a slow one may get none
    while mine := store.lease(who, names, 3):
        with open(root / f"{who}.txt", "a") as file:
            file.writelines(f"{name}\n" for name in mine)
        names = [name for name in names if name not in mine]


def test_processes_at_once_never_get_the_same_image_within_ten_minutes(tmp_path):
    names = [str(number) for number in range(60)]
    workers = [start(lease_all, tmp_path, who, names) for who in ("ann", "bob", "cleo")]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    shown = [line for who in ("ann", "bob", "cleo") for line in (tmp_path / f"{who}.txt").read_text().split()]
    assert sorted(shown) == sorted(names)


def test_a_lease_ends_by_itself_and_is_renewed_by_its_holder(tmp_path):
    store = Sittings(tmp_path)
    assert store.lease("ann", ["a", "b"], 2, NOON) == ["a", "b"]
    assert store.lease("bob", ["a", "b", "c"], 3, NOON + LEASE / 2) == ["c"]
    assert store.lease("ann", ["a"], 1, NOON + LEASE / 2) == ["a"]
    late = NOON + LEASE + timedelta(seconds=1)
    assert store.hidden("bob", late).leased == {"a"}
    assert store.lease("bob", ["a", "b"], 2, late) == ["b"]
    store.skip("ann", "a", late)
    assert store.lease("bob", ["a"], 1, late) == ["a"], "who skips an image holds it no longer"


def test_skipped_images_come_again_in_the_next_sitting_and_passed_ones_never(tmp_path):
    store = Sittings(tmp_path)
    store.skip("ann", "a", NOON)
    store.pass_on("ann", "b", NOON)
    found = store.hidden("ann", NOON + timedelta(minutes=5))
    assert (found.skipped, found.passed) == ({"a"}, {"b"})
    later = store.hidden("ann", NOON + timedelta(minutes=16))
    assert (later.skipped, later.passed) == (frozenset(), {"b"})
    store.skip("ann", "a", NOON + timedelta(minutes=17))
    store.end("ann")
    assert store.hidden("ann", NOON + timedelta(minutes=18)).skipped == frozenset()
    assert store.hidden("bob", NOON).freed == {"b"}


def test_a_damaged_store_is_set_aside_and_no_answer_is_lost(tmp_path):
    store = Sittings(tmp_path)
    give(tmp_path, store, entry("a"), ANN, "Bag")
    store.file.write_bytes(b"not a table" * 1000)
    assert store.hidden("ann").said == frozenset()
    assert store.file.with_name("sittings.sqlite3.damaged").exists()
    assert ids(journal.pending(tmp_path)) == ["a"]


def test_an_erased_image_leaves_no_trace_in_the_store(tmp_path):
    store, name = Sittings(tmp_path), "f00d" * 16
    give(tmp_path, store, entry(name), ANN, "Bag")
    store.skip("bob", name)
    store.lease("cleo", [name], 1)
    assert name.encode() in store.file.read_bytes()
    store.forget([name])
    assert name.encode() not in store.file.read_bytes()
    assert ids(found.answer for found in store.said("ann")) == []


def give_then_die(root) -> None:
    give(root, Sittings(root), entry("b"), ANN, "Trouser")


def test_an_acknowledged_answer_survives_a_kill(tmp_path):
    give(tmp_path, Sittings(tmp_path), entry("a"), ANN, "Bag")
    assert killed_at("labels.recorded", give_then_die, tmp_path)
    assert [(one.id, one.label, one.annotator) for one in journal.pending(tmp_path)] == [
        ("a", "Bag", "ann"),
        ("b", "Trouser", "ann"),
    ]


def test_an_answer_that_is_sent_twice_counts_once_and_another_word_replaces_it(tmp_path):
    store = Sittings(tmp_path)
    assert give(tmp_path, store, entry("a"), ANN, "Bag") == give(tmp_path, store, entry("a"), ANN, "Bag")
    give(tmp_path, store, entry("a"), ANN, "Trouser")
    give(tmp_path, store, entry("a"), BOB, "Trouser")
    found = [(one.annotator, one.label) for one in journal.pending(tmp_path)]
    assert found == [("ann", "Bag"), ("ann", "Trouser"), ("bob", "Trouser")]
    assert store.done("ann") == {"production": 2}


def test_undo_takes_back_the_last_answers_one_after_the_other(tmp_path):
    store = Sittings(tmp_path)
    for number, name in enumerate("abc"):
        give(tmp_path, store, entry(name), ANN, "Bag", now=NOON + timedelta(seconds=number))
    give(tmp_path, store, entry("d"), BOB, "Bag")
    said, became = take_back(tmp_path, store, "ann")
    assert (said.answer.id, said.answer.label, became) == ("c", "Bag", WITHDRAWN)
    assert take_back(tmp_path, store, "ann")[0].answer.id == "b"
    assert ids(journal.pending(tmp_path)) == ["a", "d"]
    assert take_back(tmp_path, store, "ann")[0].answer.id == "a"
    assert take_back(tmp_path, store, "ann") is None


def test_only_a_reviewers_word_about_an_issue_is_a_reviewers(tmp_path):
    store = Sittings(tmp_path)
    give(tmp_path, store, entry("a", "looks wrong", queue="issues"), EVE, "Bag")
    give(tmp_path, store, entry("b"), EVE, "Bag")
    give(tmp_path, store, entry("c", "looks wrong", queue="issues"), ANN, "Bag")
    roles = [(one.id, one.role) for one in journal.pending(tmp_path)]
    assert roles == [("a", "reviewer"), ("b", "annotator"), ("c", "annotator")]


def test_what_is_not_a_class_is_refused():
    classes = ["Bag", "Trouser"]
    assert check_label("Bag", classes, False) == "Bag"
    assert check_label(["Trouser", "Bag", "Bag"], classes, True) == ["Bag", "Trouser"]
    assert check_label([], classes, True) == []
    assert check_label("Sack", classes, False, also=["Sack"]) == "Sack"
    assert check_label("anything", [], False) == "anything"
    for label, multilabel in (("Sack", False), (["Bag"], False), ("Bag", True), (["Sack"], True)):
        with pytest.raises(EvergreenError):
            check_label(label, classes, multilabel)
    for label in ("", " ", "x" * 201):
        with pytest.raises(EvergreenError, match="1 to 200 characters"):
            check_label(label, [], False)


def test_classes_are_listed_by_likelihood():
    assert by_likelihood(["a", "b", "c", "d"], {"c": 0.7, "b": 0.2}) == ["c", "b", "a", "d"]
    assert by_likelihood(["a", "b", "c", "d"], {}, first=["d", "c"]) == ["d", "c", "a", "b"]


# with a real project


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return project(tmp_path_factory.mktemp("sitting") / "main")


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "main", symlinks=True)


def test_the_three_queues_hold_what_waits_each_with_its_image(made):
    params, log, queues = load_params(made / "params.yaml"), the_log(made), Queues(made)
    found = {queue: queues.entries(queue, params, log) for queue in ("production", "issues", "audit")}
    assert len(found["production"]) == 12
    assert len(found["audit"]) > 3
    assert {one.asked.why for one in found["issues"]} == {"annotators disagree", "looks wrong"}
    for one in (entries[0] for entries in found.values()):
        assert decode(read_image(made, log, one), params.images.max_pixels).size == (28, 28)
    likely = Likelihoods(made, open_store(params.store, made)).of(log, found["production"][0], UNCHANGED)
    assert max(likely, key=likely.get) == found["production"][0].asked.prediction
    assert sum(likely.values()) == pytest.approx(1, abs=1e-3)
    assert queues.entries("issues", params, log) is queues.entries("issues", params, log)  # read once


def test_the_queues_are_read_again_when_their_files_change(root):
    params, log, queues, store = load_params(root / "params.yaml"), the_log(root), Queues(root), Sittings(root)
    before = {queue: len(queues.entries(queue, params, log)) for queue in ("production", "issues")}
    give(root, store, queues.entries("production", params, log)[0], ANN, "Bag")
    give(root, store, queues.entries("issues", params, log)[0], EVE, "Bag")
    finish(root)
    after = {queue: len(queues.entries(queue, params, log)) for queue in ("production", "issues")}
    assert after == {queue: count - 1 for queue, count in before.items()}
    (name, *_) = [one.id for one in queues.entries("production", params, log)]
    assign(log.store, "bob", None, [name], "eve")
    assert queues.holders(log)[name].person == "bob"


def test_images_of_a_batch_that_a_run_refused_are_not_asked_about(root):
    params, log, queues = load_params(root / "params.yaml"), the_log(root), Queues(root)
    assert queues.entries("issues", params, log)
    open_store(params.store, root).tombstone("b-1", "leaks", "a run")
    assert queues.entries("issues", params, log) == []


def test_an_expert_corrects_an_issue_and_takes_it_back_after_the_commit(root):
    store = Sittings(root)
    issue = next(one for one in waiting_in(root, "issues") if one.asked.why == "looks wrong")
    give(root, store, issue, EVE, other(issue.asked.given))
    finish(root)
    assert standing_label(root, issue.id) == other(issue.asked.given)
    assert issue.id not in ids(waiting_in(root, "issues"))
    said, became = take_back(root, store, "eve")
    assert (said.answer.id, became) == (issue.id, RETRACTED)
    finish(root)
    assert standing_label(root, issue.id) == issue.asked.given
    assert git(root, "log", "-1", "--format=%s").startswith("took 1 answer about samples")


def test_a_label_of_production_stands_after_the_commit_until_the_person_gives_another(root):
    store, params, log = Sittings(root), load_params(root / "params.yaml"), the_log(root)
    one = waiting_in(root, "production")[0]
    give(root, store, one, ANN, "Bag")
    finish(root)
    said, became = take_back(root, store, "ann")
    assert (said.answer.id, became) == (one.id, STANDS)
    again = Queues(root).find("production", one.id, params, log)
    assert (again.place, again.asked.prediction) == (one.place, one.asked.prediction)
    give(root, store, again, ANN, "Trouser")
    finish(root)
    assert standing_label(root, one.id) == "Trouser"
    rows = {row["id"]: row["label"] for row in the_log(root).labels().to_pylist()}
    assert rows == {one.id: "Trouser"}


def test_a_person_gets_images_that_nobody_else_has(root):
    store, production = Sittings(root), waiting_in(root, "production")
    mine = next_images(store, ANN, production, 5)
    free = for_person(production, BOB, {}, store.hidden("bob"))
    theirs = next_images(store, BOB, free, 5)
    assert len(mine) == len(theirs) == 5
    assert not set(ids(mine)) & set(ids(theirs))
