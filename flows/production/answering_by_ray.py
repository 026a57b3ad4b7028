"""Answer images on a Ray cluster: workers load the live bundle once and get batches of images."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from flows.production.answering import Answered, Asked, answer_batch, answered_here
from flows.scale.carried import Carried, carry
from flows.scale.spread import after_few, spread
from serving.live import Model
from serving.predictor import Predictor
from tasks.common.params import ScaleParams

FEW = 8  # batches that are answered here before a cluster is asked


def answered_by_ray(
    batches: Iterable[Sequence[Asked]], model: Model, scale: ScaleParams, say: Callable[[str], object] = print
) -> Iterator[Sequence[Answered]]:
    """Yield what `model` answers for each of `batches`, in order: the same as `answer_batch` here."""

    def here(some: Iterator[Sequence[Asked]]) -> Iterator[Sequence[Answered]]:
        return answered_here(model, some)

    def there(rest: Iterator[Sequence[Asked]]) -> Iterator[Sequence[Answered]]:
        folder = model.predictor.folder
        bundle = carry(folder, sorted(file.name for file in folder.iterdir()))
        return spread(_AnswerBatch(bundle, model.version, model.predictor.digest), rest, scale, say=say, name=_name)

    return after_few(FEW, batches, here, there)


@dataclass(frozen=True)
class _AnswerBatch:
    bundle: Carried
    version: str
    digest: str  # under which answers are logged: not that of the files if an erasure has replaced some

    def __call__(self, batch: Sequence[Asked]) -> list[Answered]:
        predictor = self.bundle.loaded(Predictor)
        predictor.digest = self.digest  # in each call: this process may have loaded the same files for another bundle
        return answer_batch(Model(predictor, self.version), batch)


def _name(batch: Sequence[Asked]) -> str:
    return f"{len(batch)} images to answer"
