"""Labels of clients that wait, in a folder and in S3: none is lost, none comes twice."""

import threading
from datetime import UTC, datetime

from monitoring.log.feedback import NEW, FeedbackJournal
from serving.service.contracts import Feedback
from tests.support.stores import credentials, moto, opened, shared  # noqa: F401  (fixtures)

AT = datetime(2026, 1, 2, 3, tzinfo=UTC)


def test_what_several_processes_keep_is_there_until_it_is_taken(shared):  # noqa: F811
    journals = [FeedbackJournal(opened(shared)) for _ in range(3)]
    sent = [[Feedback(f"order {n}-{m}", "Bag", "ann", "line-1", "why", AT) for m in range(4)] for n in range(3)]
    threads = [threading.Thread(target=one.keep, args=(labels,)) for one, labels in zip(journals, sent, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = FeedbackJournal(opened(shared))
    read = reader.waiting()
    assert sorted(one.label.name for one in read.labels) == sorted(one.name for part in sent for one in part)
    assert len(read.keys) == 3
    journals[0].keep([Feedback("order 9", ("Bag", "Boot"), "bea", "line-2", at=AT)])  # while the first are taken
    reader.replace(read, read.labels[:1])
    left = reader.waiting()
    assert sorted(one.label.name for one in left.labels) == sorted([read.labels[0].label.name, "order 9"])
    assert {one.label.label for one in left.labels} == {"Bag", ("Bag", "Boot")}
    reader.store.create(f"{NEW}damaged.json", b"{")
    assert reader.count() == 2, "a damaged file is skipped"

    reader.decide("dropped", "line-2", 1, "lea", "a test stand")
    reader.decide("taken", "", 20, "bob", "")
    assert [(one.client, one.by, one.why) for one in reader.decided(5)] == [
        ("", "bob", ""),
        ("line-2", "lea", "a test stand"),
    ]
    assert reader.decided(5)[0].sentence().startswith("20 labels were taken by bob, ")
    assert len(reader.decided(1)) == 1
