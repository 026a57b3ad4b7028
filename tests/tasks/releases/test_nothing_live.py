"""What a person reads who asks for the live model before there is one."""

from tasks.releases.nothing_live import nothing_live
from tasks.releases.store import Releases


def ended(releases: Releases, run_id: str, outcome: str, sentence: str, **more) -> str:
    releases.put_run(run_id, {"outcome": outcome, "sentence": sentence} | more)
    return nothing_live(releases)


def test_the_last_run_and_what_to_do_are_said(releases: Releases):
    assert nothing_live(releases) == "no model is live yet: `evergreen retrain` makes and publishes the first one"
    text = ended(releases, "1", "rejected", "reject: luck.", remedies=[{"text": "Label more."}, {"text": "Decide."}])
    assert "the last run (1) ended as rejected. reject: luck." in text
    assert text.splitlines()[-2:] == ["  1. Label more.", "  2. Decide."]
    assert "`evergreen promote 2 --override" in ended(releases, "2", "rejected", "of an older Evergreen.")
    assert "`evergreen approve 3` publishes it." in ended(releases, "3", "held", "hold: perhaps worse.")
    assert "Correct the data, `evergreen ingest` it" in ended(releases, "4", "refused", "no labels.")
