"""Heat on request, in a thread of its own: it must not hold up answers."""

import asyncio
import base64
import io
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from serving.heat import Heat
from serving.live import Model
from serving.service.contracts import Asked
from serving.service.jobs import Result
from serving.service.pixels import read_pixels
from serving.service.problems import Problem
from tasks.models.grad_cam import overlay

WAITING = 4  # pictures asked for at once; more are refused
MODELS = 2  # whose second copy is kept


class Heating:
    """Belongs to the event loop."""

    def __init__(self):
        self._thread = ThreadPoolExecutor(1, "evergreen-heat")
        self._heats: OrderedDict[str, Heat] = OrderedDict()  # by the bundle's digest; only the thread uses it
        self._waiting = 0

    async def picture(self, asked: Asked, result: Result) -> dict[str, Any]:
        """What made the model answer: the class, the method and the picture as a PNG in base64. Raises Problem."""
        if self._waiting >= WAITING:
            raise Problem("queue_full", f"{WAITING} pictures of heat wait: send it again", {"retry-after": "2"})
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._make, asked, result)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._thread.shutdown()

    def _make(self, asked: Asked, result: Result) -> dict[str, Any]:
        model, prediction = result.answered.model, result.answered.prediction
        k = number_of(prediction.label, prediction.probabilities, model.predictor.classes)
        try:
            pixels = read_pixels(asked.image, model)
            heat, method = self._heat(model)(pixels, k)
        except Exception as error:  # of ONNX Runtime, or of a bundle whose folder was cleaned up
            raise Problem("no_heat", f"the model {model.version} gives no heat ({type(error).__name__})") from None
        buffer = io.BytesIO()
        Image.fromarray(overlay(pixels, heat)).save(buffer, "PNG")
        png = base64.b64encode(buffer.getvalue()).decode()
        return {"label": model.predictor.classes[k], "method": method, "png": png}

    def _heat(self, model: Model) -> Heat:
        name = model.predictor.digest
        if name not in self._heats:
            self._heats[name] = Heat(model.predictor)
            while len(self._heats) > MODELS:
                self._heats.popitem(last=False)
        self._heats.move_to_end(name)
        return self._heats[name]


def number_of(label: str | tuple[str, ...], probabilities: tuple[float, ...], classes: list[str]) -> int:
    """The class that the picture is about: the answer, of several labels the likeliest."""
    return classes.index(label) if isinstance(label, str) else int(np.argmax(probabilities))
