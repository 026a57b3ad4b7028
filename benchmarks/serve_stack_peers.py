"""The peers of benchmarks.serve_stack: the same model behind plain FastAPI and behind LitServe, one process each.

    python serve_stack_peers.py fastapi|litserve PORT MODEL.onnx RESOLUTION FIT

It runs in an environment of its own with litserve, fastapi, uvicorn, onnxruntime, pillow and numpy. It answers with
less than Evergreen does: the likeliest class and the probabilities, without sets, unfamiliarity, limits or a log.
"""

import base64
import importlib
import sys

import numpy as np
import onnxruntime

from tasks.dataset.decode import preprocess

MAX_PIXELS = 50_000_000


litserve = importlib.import_module("litserve")  # not a library of the project


class Computed:
    """Images in, probabilities out."""

    def __init__(self, path: str, resolution: str, fit: str):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.resolution, self.fit = int(resolution), fit

    def pixels(self, image: bytes) -> np.ndarray:
        return preprocess(image, self.resolution, self.fit, MAX_PIXELS)

    def __call__(self, pixels: np.ndarray) -> list[dict]:
        (found,) = self.session.run(["probabilities"], {"images": pixels})
        return [{"label": int(row.argmax()), "probabilities": row.tolist()} for row in found]


class Api(litserve.LitAPI):
    """For LitServe, whose workers import this module again."""

    def setup(self, device):
        self.computed = Computed(*self.arguments)

    def decode_request(self, request):
        return self.computed.pixels(base64.b64decode(request["image"]))

    def batch(self, inputs):
        return np.stack(inputs)

    def predict(self, x):
        return self.computed(x)

    def unbatch(self, output):
        return output

    def encode_response(self, output):
        return output


def fastapi_app(computed: Computed):
    """A plain endpoint in FastAPI's thread pool, without batches."""
    from fastapi import FastAPI
    from pydantic import BaseModel

    app = FastAPI()

    class Sent(BaseModel):
        image: str

    class Answer(BaseModel):
        label: int
        probabilities: list[float]

    @app.post("/predict")
    def predict(sent: Sent) -> Answer:
        (answer,) = computed(computed.pixels(base64.b64decode(sent.image))[None])
        return answer

    return app


def run_litserve(arguments: list[str], port: int) -> None:
    """LitServe with its batching, at its default of one worker."""
    api = Api(max_batch_size=32, batch_timeout=0.002)
    api.arguments = arguments
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=port, host="127.0.0.1", log_level="error", generate_client_file=False)


def main(kind: str, port: str, *arguments: str) -> None:
    if kind == "litserve":
        return run_litserve(list(arguments), int(port))
    import uvicorn

    uvicorn.run(fastapi_app(Computed(*arguments)), host="127.0.0.1", port=int(port), log_level="error")
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
