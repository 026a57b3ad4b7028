"""The service that an engineer writes in an afternoon: FastAPI and ONNX Runtime, an image per request.

uvicorn --app-dir benchmarks/serving fastapi_peer:app
"""

import io
import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from PIL import Image, ImageOps

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1  # the server has one core
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
side = session.get_inputs()[0].shape[1]
app = FastAPI()


def answer(data: bytes) -> dict:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    image = image.resize((side, side), Image.Resampling.BICUBIC)
    (probabilities,) = session.run(["probabilities"], {"images": np.asarray(image)[None]})
    return {"class": int(probabilities[0].argmax()), "probabilities": probabilities[0].tolist()}


@app.post("/predict")
async def predict(request: Request) -> dict:
    return await run_in_threadpool(answer, await request.body())
