"""Labels of clients on the page Label: counts and reasons, and who may take or drop them."""

import shutil

import pytest

from flows.console.labelling.feedback import SLOT
from flows.production.feedback_quota import START
from monitoring.log.feedback import FeedbackJournal
from serving.service.contracts import Feedback
from tests.flows.console.labelling.test_label_pages import send, signed_in, table
from tests.support.console import job_ended, serving
from tests.support.label_queues import EVER, project, the_log

HOSTILE = "<img src=x onerror=alert(1)>"
BEYOND = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return project(tmp_path_factory.mktemp("feedback-card") / "main")


@pytest.fixture
def root(made, tmp_path):
    root = shutil.copytree(made, tmp_path / "main", symlinks=True)
    names = the_log(root).window(*EVER, ["id"])[0]["id"].to_pylist()
    sent = [Feedback(name, "Bag", "ann", "line-1") for name in names[: START + BEYOND]]
    sent += [Feedback("a" * 64, "Bag", "ann", HOSTILE), Feedback(names[-1], "no class", "ann", HOSTILE)]
    FeedbackJournal(the_log(root).store).keep(sent)
    return root


def left(root) -> int:
    return FeedbackJournal(the_log(root).store).count()


def test_the_card_counts_by_client_and_a_reason_and_a_role_are_needed(root):
    with serving(root) as site:
        assert f"{START + BEYOND + 2} labels of clients" in site.get("/")[2], "the first page says it"
        text = site.get("/label")[2]
        assert f"<b>{START + BEYOND}</b><span>wait</span>" in text
        assert f"<b>{BEYOND}</b><span>beyond the quota</span>" in text
        assert "their label is not a class" in text
        assert "wait for their image" in text
        assert HOSTILE not in text
        rows = [(row["client"], row["labels"]) for row in table(site.get("/label/feedback")[2])]
        assert rows[:2] == [("line-1", str(START)), ("line-1", str(BEYOND))]

        labeller = signed_in(root, "lea")
        assert "/label/feedback/take" in (seen := site.get("/label", **labeller)[2])
        assert "/label/feedback/beyond" not in seen
        assert "/label/feedback/drop" not in seen
        fields = {"client": "line-1", "why": "I looked at ten of them"}
        for order in ("beyond", "drop"):
            assert send(site, f"/label/feedback/{order}", fields, **labeller)[0] == 403
        send(site, "/label/feedback/take", {"client": "line-1", "why": " "})
        send(site, "/label/feedback/take", {"client": "line-9", "why": "a client that sent nothing"})
        assert left(root) == START + BEYOND + 2

        send(site, "/label/feedback/drop", {"client": HOSTILE, "why": "a test"})
        assert job_ended(root, SLOT).code == 0
        assert left(root) == START + BEYOND
        send(site, "/label/feedback/take", fields, **labeller)
        job = job_ended(root, SLOT)
        assert (job.code, job.by, left(root)) == (0, "lea", BEYOND), job.said
        assert fields["why"] in job.title
        text = site.get("/label")[2]
        assert f"{START} labels of line-1 were taken by lea" in text
        assert fields["why"] in text
        assert HOSTILE not in text
        send(site, "/label/feedback/beyond", fields)
        assert job_ended(root, SLOT).code == 0
        assert left(root) == 0
        assert "beyond the quota" in job_ended(root, SLOT).title
