"""Answer batches of encoded images as rows of the production log.

`answer_batch` needs the model and what a batch holds, nothing else. So it may run on any machine that has the bundle,
while `evergreen score` reads the source and writes the log in order.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple

from monitoring.log.rows import Answer, log_row
from serving.live import Model
from tasks.common.cores import on_all_cores
from tasks.sources.fields import Unusable
from tasks.sources.offered import Offered

THREADS = 4  # at most: the encoded images of so many batches, and of one more, lie in memory


class Asked(NamedTuple):
    """One image of the source, and what the source says of it."""

    image: bytes
    at: datetime  # with a time zone
    source: str | None
    key: str | None
    path: str | None
    slices: tuple[tuple[str, str], ...]  # (name, value)
    digest: str | None = None  # sha256 of the image, if it is known already


class Answered(NamedTuple):
    """The log's row of one image, without the image, and what the summary of a scoring counts."""

    row: dict  # of monitoring.log.rows.log_row
    label: str | tuple[str, ...] | None
    needs_review: bool
    unfamiliar: bool
    reason: str | None  # why the image was not answered; None: it was
    detail: str


Row = tuple[Offered, Asked | Unusable, Answered | None]  # Unusable and None: its bytes cannot be read
AnswerBatches = Callable[[Iterable[Sequence[Asked]]], Iterable[Sequence[Answered]]]  # in order, one for one


def answer_batch(model: Model, batch: Sequence[Asked]) -> list[Answered]:
    """What `model` answers for each image of `batch`, in order."""
    said = model.predictor.predict([one.image for one in batch])
    found = []
    for one, prediction in zip(batch, said, strict=True):
        answer = Answer(one.image, prediction, model, one.source, one.at, None, one.key, one.path, one.slices)
        row = log_row(answer, keep_image=False, digest=one.digest)
        counted = (prediction.label, prediction.needs_review, prediction.is_ood, prediction.reason, prediction.detail)
        found.append(Answered(row, *counted))
    return found


def answered_here(model: Model, batches: Iterable[Sequence[Asked]]) -> Iterator[list[Answered]]:
    """`answer_batch` of each of `batches`, in order, on the cores of this machine."""
    return on_all_cores(partial(answer_batch, model), batches, THREADS)


def answered_batches(
    batches: Iterable[Sequence[Offered]], ask: Callable[[Offered], Asked], answer: AnswerBatches
) -> Iterator[list[Row]]:
    """The rows of each batch, in order, with their answers.

    ask: reads the image of a row; raises Unusable. `answer` may read batches ahead, which then wait in memory.
    """
    waiting: deque[list[tuple[Offered, Asked | Unusable]]] = deque()

    def readable() -> Iterator[list[Asked]]:
        for batch in batches:
            waiting.append([(one, _asked(one, ask)) for one in batch])
            yield [asked for _, asked in waiting[-1] if isinstance(asked, Asked)]

    for answers in answer(readable()):
        rest = iter(answers)
        yield [(one, asked, next(rest) if isinstance(asked, Asked) else None) for one, asked in waiting.popleft()]


def _asked(one: Offered, ask: Callable[[Offered], Asked]) -> Asked | Unusable:
    try:
        return ask(one)
    except Unusable as error:
        return error
