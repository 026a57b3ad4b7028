"""Decode and measure images on a Ray cluster, as `measure_all` does on this machine.

A task gets some encoded images and runs `measure_all` with one child process. So a decoder that crashes, loops or wants
too much memory costs its image alone, on the cluster as here.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from flows.scale.spread import after_few, spread
from tasks.common.params import ImagesParams, Params
from tasks.dataset.decode import Undecodable
from tasks.inspection.measure import Measured, measure_all

FEW = 512  # images that are measured here before a cluster is asked
CHUNK_ITEMS, CHUNK_BYTES = 256, 8 << 20  # of a task: tenths of a second of decoding


def measured_by_ray(
    items: Iterable[bytes], params: Params, say: Callable[[str], object] = print
) -> Iterator[Measured | Undecodable]:
    """Yield the measures of each of the encoded images `items`, in order. Needs scale.engine: ray."""
    images, workers = params.images, params.inspect.workers

    def here(some: Iterator[bytes]) -> Iterable[Measured | Undecodable]:
        return measure_all(some, images.max_pixels, workers, images.bit_depth)

    def there(rest: Iterator[bytes]) -> Iterable[Measured | Undecodable]:
        found = spread(_MeasureChunk(images), _chunks(rest), params.scale, say=say, name=_name)
        return chain.from_iterable(found)

    return after_few(FEW, items, here, there)


@dataclass(frozen=True)
class _MeasureChunk:
    images: ImagesParams

    def __call__(self, chunk: list[bytes]) -> list[Measured | Undecodable]:
        return list(measure_all(chunk, self.images.max_pixels, 1, self.images.bit_depth))


def _chunks(items: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk, size = [], 0
    for item in items:
        if chunk and (len(chunk) == CHUNK_ITEMS or size + len(item) > CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += len(item)
    if chunk:
        yield chunk


def _name(chunk: list[bytes]) -> str:
    return f"{len(chunk)} images to measure"
