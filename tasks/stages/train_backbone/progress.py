"""Says how long a training will take, after its first batches, and that a long epoch goes on."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tasks.common.progress import duration
from tasks.stages.train_backbone.phases import Phase

FIRST = 5.0  # seconds of the first epoch until the first line: a rate over fewer batches is a guess
EVERY = 60.0  # seconds between lines
PART = 0.6  # what an epoch of phase "last" costs of one of phase "all"


@dataclass
class Progress:
    """`plan`: all phases of the training; `images` of an epoch; `say` prints a line; `clock` gives seconds."""

    plan: Sequence[Phase]
    images: int
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _said: float = field(default=-1.0, init=False)

    def epoch(self, number: int, phase: Phase, done: int) -> Callable[[int], None]:
        """A function to call after each batch of epoch `number` with the images so far; `done`: epochs of `phase`."""
        began = self.clock()

        def seen(images: int) -> None:
            now = self.clock()
            quiet = FIRST if self._said < 0 else EVERY
            if phase.opened == 0 or images >= self.images or now - max(began, self._said) < quiet:
                return
            self._said = now
            rate = images / (now - began)
            left = duration(self.work_left(phase, done, images) / rate)
            self.say(
                f"epoch {number:3d}  {phase.name:6s} {images / self.images:.0%} at {rate:,.0f} images/s, {left} left"
            )

        return seen

    def work_left(self, phase: Phase, done: int, images: int) -> float:
        """Images still to train on, in images of `phase`: after `done` of its epochs and `images` of the next."""
        later = self.plan[[one.name for one in self.plan].index(phase.name) + 1 :]
        epochs = phase.epochs - done + sum(one.epochs * _cost(one) for one in later) / _cost(phase)
        return epochs * self.images - images


def _cost(phase: Phase) -> float:
    return 1.0 if phase.opened is None else PART if phase.opened else 0.0
