"""What is known about the mistakes of one run, and where it is kept.

.evergreen/mistakes/<run id>.json   one Found: mistakes with the training images that taught them, suggested changes

It can be made again by `evergreen mistakes`, so a damaged file is like a missing one.
"""

from pathlib import Path

from pydantic import AwareDatetime

from tasks.common.checks import Frozen
from tasks.common.errors import refuse_newer
from tasks.common.files import write_json
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import read_rebuildable

SCHEMA_VERSION = 1
FOLDER = "mistakes"
KEEP = 20  # runs
Label = str | list[str]


class Teacher(Frozen):
    """A training image behind a mistake."""

    id: str
    label: Label
    batch: str
    annotators: list[str]  # who gave labels to it; [] if only the import did
    effect: float | None = None  # by how much the wrong answer's lead falls without it
    similarity: float | None = None  # cosine, of the model's features


class Mistake(Frozen):
    """One wrong answer."""

    id: str
    where: str  # "test", "hard" or "production"
    truth: Label
    answer: Label
    confidence: float
    repeated: bool  # the classifier that was taught again to explain it makes the mistake, too
    taught: list[Teacher]
    near: list[Teacher]


class Fix(Frozen):
    """A training label that a person should look at."""

    id: str
    label: Label
    to: Label | None  # None: leave the image out, unless its label is right
    batch: str
    annotators: list[str]


class Brings(Frozen):
    """What all fixes together bring on the test images, which did not choose them."""

    images: int
    chosen_by: int  # calibration images
    before: float
    predicted: float
    after: float
    low: float  # 95 % interval of the gain
    high: float
    loss_before: float
    loss_after: float
    verdict: str  # "helps", "may help" or "nothing helps"

    def sentence(self, count: int) -> str:
        """For people."""
        these = f"these {count}" if count > 1 else "this one"
        predicted, real = 100 * (self.predicted - self.before), 100 * (self.after - self.before)
        found = f"{real:+.1f} points ({100 * self.low:+.1f} to {100 * self.high:+.1f})"
        about = f"on {self.images} test images, which did not choose them"
        if self.verdict == "nothing helps":
            return f"Nothing helps: relabelling or leaving out {these} brings {found}, the head fitted again, {about}."
        return (
            f"Relabel or leave out {these}: predicted {predicted:+.1f} points, and {found} when the head is fitted "
            f"again, {about}. It {self.verdict}: log loss {self.loss_before:.3f} becomes {self.loss_after:.3f}."
        )


class Found(Frozen):
    """The mistakes of one run."""

    run: str
    at: AwareDatetime
    rows: int  # training images that the explanation knows
    counts: dict[str, tuple[int, int]]  # where -> (images, mistakes)
    mistakes: list[Mistake]  # the most confident first
    left: int  # mistakes that are not explained: there are too many
    fixes: list[Fix]
    brings: Brings | None  # None: nothing is suggested

    def advice(self) -> str:
        """What to do, in one sentence or two."""
        if self.brings is None:
            return "Nothing helps: no training image with a doubtful label raises the loss on the calibration images."
        return self.brings.sentence(len(self.fixes))


def file_of(root: Path, run: str) -> Path:
    """Where the mistakes of a run are kept."""
    return state_dir(root) / FOLDER / f"{run}.json"


def keep(root: Path, found: Found) -> None:
    """Keep what was found; the oldest runs' are deleted."""
    file = file_of(root, found.run)
    make_folder(file.parent)
    write_json(file, {"schema": SCHEMA_VERSION} | found.model_dump(mode="json"))
    for old in sorted(file.parent.glob("*.json"))[:-KEEP]:
        old.unlink(missing_ok=True)


def read(root: Path, run: str) -> Found | None:
    """The mistakes of a run; None if they were not looked for on this machine."""
    file = file_of(root, run)

    def accept(about: dict) -> Found:
        refuse_newer(about.pop("schema"), SCHEMA_VERSION, str(file))
        return Found.model_validate(about)

    return read_rebuildable(file, accept, "`evergreen mistakes` finds them again")


def newest(root: Path) -> Found | None:
    """Those of the newest run that were looked for: run ids sort by time."""
    files = sorted((state_dir(root) / FOLDER).glob("*.json"))
    return read(root, files[-1].stem) if files else None
