"""Counts of both models of a rollout in production, from which `flows.rollout.decide` decides.

Counted are units: the first answer of each key (without one: of each image), because a key always gets the same arm,
so its further answers say nothing new. "new" is the challenger, "live" the champion.
"""

from tasks.common.checks import Frozen


class Arm(Frozen):
    """The answers of one model in one step."""

    n: int = 0  # units
    answers: dict[str, int] = {}  # class -> units in which the answer was or contained it
    review: int = 0  # units flagged for review
    confidence: float | None = None  # mean
    latency_ms: float | None = None  # median


class Pairs(Frozen):
    """An event on images that both models answered."""

    both: int = 0
    only_live: int = 0
    only_new: int = 0


class StepEvidence(Frozen):
    """What was seen in one step; `pairs` and `agree` are of a shadow, whose arms answered the same images."""

    step: int
    share: float
    new: Arm = Arm()
    live: Arm = Arm()
    slower: int = 0  # new answers that took longer than max_latency_ratio times the live answer before them
    timed: int = 0  # new answers that have such a live answer
    agree: int = 0  # images with the same answer of both
    answers: dict[str, Pairs] = {}  # class -> who answered it
    review: Pairs = Pairs()


class Block(Frozen):
    """`count` blocks of one labelled answer of the challenger and `live` of the champion."""

    live: int
    wrong: int  # of all answers in the block
    new_is_wrong: bool
    count: int


class Labelled(Frozen):
    """Answers with a true label: all of them, or those whose true class is the one."""

    new: int = 0
    new_right: int = 0
    live: int = 0
    live_right: int = 0
    blocks: tuple[Block, ...] = ()


class Failed(Frozen):
    """Answers that the service asked of each model, and how many failed."""

    new_asked: int = 0
    new_failed: int = 0
    live_asked: int = 0
    live_failed: int = 0
    loaded: int = 0  # processes that can compute with the challenger
    not_loaded: int = 0  # those that cannot, after several attempts
    why: str = ""  # one of these cannot


class Evidence(Frozen):
    """Everything that was seen since the rollout began."""

    classes: tuple[str, ...]  # that both models know
    steps: tuple[StepEvidence, ...]  # the last is the one that goes on
    labelled: Labelled = Labelled()
    by_class: dict[str, Labelled] = {}  # true class -> its labelled answers
    failed: Failed = Failed()
    hours: float = 0.0  # since the step began
    unreadable: int = 0  # files of the log that were skipped

    @property
    def requests(self) -> int:
        """Units that the challenger answered in the step that goes on."""
        return self.steps[-1].new.n if self.steps else 0
