"""Three questions about a run, answered from its verdict and from what is live."""

from datetime import UTC, datetime

from flows.console.releases.answers import Meanwhile, better, nothing, said, trend_of, worse
from monitoring.live.estimate import LiveAccuracy
from monitoring.live.periods import Period
from tasks.common.checks import Check
from tasks.gate.verdict import GateVerdict


def verdict(*checks: Check, champion: str | None = "v0.3.0") -> GateVerdict:
    return GateVerdict(
        outcome="hold", sentence="s", checks=list(checks), challenger="c", champion=champion, hard_set=None
    )


def difference(name: str, word: str, value: float = 0.02, status: str = "pass") -> Check:
    detail = f"{word}: 0.62 against 0.6 on 99 images; by luck"
    return Check(name=name, status=status, value=value, low=value - 0.01, high=value + 0.01, bound=0.0, detail=detail)


GAIN = difference("test.balanced_accuracy", "better")
EQUAL = difference("newest.balanced_accuracy", "not shown to be better", status="fail")
SAME = difference("class.Bag.recall", "not worse", 0.0)
MAYBE = difference("class.Coat.recall", "perhaps worse", -0.1, "fail")
LOSS = difference("class.Boot.recall", "worse", -0.3, "fail")
BOUND = Check(name="size_mb", status="fail", value=120, bound=100, detail="MB of the exported model: 120, at most 100")


def test_is_it_better():
    yes = better(verdict(GAIN, SAME))
    assert (yes.word, yes.tone) == ("Yes", "good")
    assert yes.lines == ["Balanced accuracy on the test set: +2.0 points (+1.0 to +3.0)"]
    no = better(verdict(EQUAL, SAME))
    assert (no.word, no.checks) == ("Not shown", [EQUAL])
    assert "No gain over v0.3.0" in no.text
    broken = better(verdict(GAIN, Check(name="champion", status="error", detail="torn")))
    assert (broken.word, broken.tone, broken.lines) == ("Cannot be told", "bad", ["Answers of the live model: torn"])
    skill = Check(name="test.skill", status="pass", value=0.6, low=0.5, high=0.7, detail="better than chance: 0.6")
    assert better(verdict(skill, champion=None)).word == "It is the first model"
    assert better(verdict(skill.model_copy(update={"status": "fail"}), champion=None)).tone == "bad"


def test_is_anything_worse():
    assert worse(verdict(GAIN, SAME)).word == "No"
    assert "None of 2 comparisons lost more than its margin" in worse(verdict(GAIN, SAME)).text
    unsure = SAME.model_copy(update={"value": -0.05, "low": -0.17, "high": 0.06, "bound": -0.02})
    open_ones = worse(verdict(GAIN, SAME, unsure))
    assert (open_ones.word, open_ones.tone, open_ones.checks) == ("Not shown", "warn", [unsure])
    assert worse(verdict(EQUAL)).word == "No", "not shown to be better is not worse"
    assert worse(verdict(GAIN, MAYBE)).word == "Perhaps"
    both = worse(verdict(MAYBE, LOSS, BOUND))
    assert (both.word, both.tone, both.checks) == ("Yes", "bad", [LOSS, BOUND, MAYBE])
    assert "2 things got worse" in both.text
    warned = BOUND.model_copy(update={"status": "pass", "detail": "warning: many"})
    assert worse(verdict(warned)).word == "No, but"
    assert worse(verdict(champion=None)).text == "Every bound holds."


def test_long_answers_are_cut_and_say_so():
    many = worse(verdict(*[LOSS.model_copy(update={"name": f"class.{n}.recall"}) for n in range(200)]))
    assert (len(many.lines), many.more) == (6, 194)


def test_a_check_that_compares_nothing_is_told_by_its_words():
    assert said(BOUND) == "Size of the model: MB of the exported model: 120, at most 100"
    assert said(Check(name="hard_set", status="pass")) == "Hard set"


def week(value: float, used: int = 60) -> Period:
    known = LiveAccuracy(answers=900, labels=90, used=used, worth=60, value=value, low=value - 0.03, high=value + 0.03)
    about = {"version": "v0.3.0", "bundle": "b", "answers": 900, "labels": 90, "right": 60}
    return Period(start=datetime(2026, 11, 23, tzinfo=UTC), accuracy=known, **about)


def test_what_if_nobody_decides():
    due = datetime(2026, 11, 28, 2, 0, tzinfo=UTC)
    lines = nothing(Meanwhile("v0.3.0", due, True, weeks=[week(0.7), week(0.68)], drifted=3, windows=20))
    assert lines == [
        "v0.3.0 stays live; this run goes on waiting.",
        "The next scheduled retraining is on 28 Nov, 02:00 UTC; it does nothing unless data, settings or code are new.",
        "v0.3.0 was right in 65 to 71 % of its answers lately, 2.0 points less than the week before.",
        "3 of its last 20 windows drifted.",
    ]
    idle = nothing(Meanwhile(None, None, False))
    assert idle == ["Nothing goes live.", "The services are not running: no retraining starts by itself."]
    held = nothing(
        Meanwhile("v0.3.0", due, True, paused="paused until somebody resumes by Ann: rebuilt", weeks=[week(0.7, 3)])
    )
    assert held[1] == "Evergreen is paused until somebody resumes by Ann: rebuilt: no retraining starts by itself."
    assert "no labels for its answers yet" in held[2], "three labels say nothing"
    assert trend_of(0.70, 0.7004) == "as in"
    assert trend_of(0.70, 0.72) == "2.0 points more than"
