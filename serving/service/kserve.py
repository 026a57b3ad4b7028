"""The open inference protocol of KServe, version 2, over the same model as /predict.

    GET  /v2                                       the server
    GET  /v2/health/live, /v2/health/ready
    GET  /v2/models/NAME[/versions/V]              inputs and outputs
    GET  /v2/models/NAME[/versions/V]/ready
    POST /v2/models/NAME[/versions/V]/infer

The input `image` is BYTES [N] (encoded images in base64), or UINT8: [B] is the bytes of one encoded image, [H, W, 3]
and [N, H, W, 3] are RGB pixels. `key`, `source` and `path` (BYTES [N]) are optional. Tensors come as JSON; the binary
extension is not offered. N images, K classes.
"""

import json
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serving.service.about_image import make_asked
from serving.service.body import CLOSE
from serving.service.contracts import Asked
from serving.service.endpoint import json_response, route, sent, service_of
from serving.service.jobs import Result
from serving.service.problems import Problem
from serving.service.service import Service
from serving.service.settings import Settings
from serving.service.tensors import read_encoded, read_texts
from tasks.common.version import VERSION

OWNER = ("key", "source", "path")
BINARY = "inference-header-content-length"  # says that tensors follow the JSON as bytes
OUTPUTS: dict[str, tuple[str, Callable[[Result], Any]]] = {  # name -> (datatype, value of one image)
    "label": ("BYTES", lambda one: _text(one.answered.prediction.label)),
    "confidence": ("FP32", lambda one: one.answered.prediction.confidence),
    "probabilities": ("FP32", lambda one: one.answered.prediction.probabilities),  # (K,) in class order
    "coarse": ("BYTES", lambda one: one.answered.prediction.coarse or ""),
    "plausible": ("BYTES", lambda one: _text(one.answered.prediction.plausible or ())),
    "ood": ("FP32", lambda one: one.answered.prediction.ood),
    "is_ood": ("BOOL", lambda one: one.answered.prediction.is_ood),
    "needs_review": ("BOOL", lambda one: one.answered.prediction.needs_review),
    "version": ("BYTES", lambda one: one.answered.model.version),
    "id": ("BYTES", lambda one: one.id),
}


def kserve_routes(name: str) -> list[BaseRoute]:
    """The routes of the model `name`."""

    async def server(request: Request, _: str) -> Response:
        return json_response({"name": "evergreen", "version": VERSION, "extensions": []})

    async def live(request: Request, _: str) -> Response:
        return json_response({"live": True})

    async def ready(request: Request, _: str) -> Response:
        fine = service_of(request).ready
        return json_response({"ready": fine}, 200 if fine else 503)

    async def model(request: Request, _: str) -> Response:
        return json_response(_metadata(name, service_of(request), _version(request, name)))

    async def model_ready(request: Request, _: str) -> Response:
        _version(request, name)
        fine = service_of(request).ready
        return json_response({"name": name, "ready": fine}, 200 if fine else 503)

    async def infer(request: Request, own: str) -> Response:
        wanted, service = _version(request, name), service_of(request)
        settings = service.settings
        if BINARY in request.headers:
            raise Problem(
                "unsupported_media_type", f"{BINARY}: expected tensors as JSON, binary ones are not read", CLOSE
            )
        async with sent(request, settings.max_request_bytes, lambda c: _read(c, settings)) as (asked, outputs, id_):
            results = [_good(number, one, wanted) for number, one in enumerate(await service.answer(asked, own))]
        found = {"model_name": name, "model_version": results[0].answered.model.version, "id": id_ or own}
        try:
            return json_response(found | {"outputs": [_output(output, results) for output in outputs]})
        except ValueError:  # a tensor of JSON has no place for them
            raise Problem("model_failed", "the model answered with numbers that are not finite") from None

    places = [
        (f"/v2/models/{{name}}{versions}{end}") for versions in ("", "/versions/{version}") for end in ("", "/ready")
    ]
    return [
        route("/v2", server, "GET", _error),
        route("/v2/health/live", live, "GET", _error),
        route("/v2/health/ready", ready, "GET", _error),
        *(route(place, model_ready if place.endswith("/ready") else model, "GET", _error) for place in places),
        *(route(f"/v2/models/{{name}}{end}/infer", infer, "POST", _error) for end in ("", "/versions/{version}")),
    ]


def _error(problem: Problem) -> dict[str, str]:
    """The protocol's own member of an error."""
    return {"error": problem.detail}


def _version(request: Request, name: str) -> str | None:
    """The version that the address names, if any. Raises Problem if it, or the model, is another."""
    if request.path_params["name"] != name:
        raise Problem("not_found", f"the model is called {name}, not {request.path_params['name'][:60]!r}")
    wanted = request.path_params.get("version")
    answering = [one.version for role, one in service_of(request).router.models().items() if role != "shadow"]
    if wanted is not None and wanted not in answering:
        raise Problem(
            "not_found", f"version {wanted[:40]!r} does not answer now: {', '.join(answering) or 'none'} does"
        )
    return wanted


def _metadata(name: str, service: Service, wanted: str | None) -> dict[str, Any]:
    models = service.router.models()
    if "live" not in models:
        raise Problem("not_ready", "no model is loaded yet", {"retry-after": "1"})
    classes = models["live"].predictor.classes
    versions = [one.version for role, one in models.items() if role != "shadow"]
    inputs = [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    inputs += [{"name": each, "datatype": "BYTES", "shape": [-1], "parameters": {"optional": True}} for each in OWNER]
    outputs = [
        {"name": each, "datatype": kind, "shape": [-1, len(classes)] if each == "probabilities" else [-1]}
        for each, (kind, _) in OUTPUTS.items()
    ]
    outputs[2]["parameters"] = {"labels": classes}
    about = {"name": name, "versions": [wanted] if wanted else versions, "platform": "evergreen_onnx"}
    return about | {"inputs": inputs, "outputs": outputs}


def _read(content: Any, settings: Settings) -> tuple[list[Asked], list[str], str | None]:
    """(images, names of the wanted outputs, the client's id)."""
    if not isinstance(content, dict) or not isinstance(content.get("inputs"), list):
        raise Problem("bad_request", "expected an object with `inputs`, a list of tensors")
    tensors: dict[str, dict] = {}
    for tensor in content["inputs"]:
        if not isinstance(tensor, dict) or tensor.get("name") not in ("image", *OWNER) or tensor["name"] in tensors:
            raise Problem("bad_request", f"expected inputs `image` and maybe {', '.join(OWNER)}, each once")
        tensors[tensor["name"]] = tensor
    if "image" not in tensors:
        raise Problem("no_image", "the input `image` is missing")
    images = read_encoded(tensors["image"], settings)
    about = {name: read_texts(tensor, len(images)) for name, tensor in tensors.items() if name != "image"}
    rows = [{name: values[n] for name, values in about.items() if values[n]} for n in range(len(images))]
    asked = [make_asked(image, row, settings.max_bytes) for image, row in zip(images, rows, strict=True)]
    return asked, _wanted(content.get("outputs")), _own_id(content.get("id"))


def _wanted(outputs: Any) -> list[str]:
    """Names of the wanted outputs, each once: a repeated one would make the response as large as a client likes."""
    if outputs is None or outputs == []:
        return list(OUTPUTS)
    if not isinstance(outputs, list) or len(outputs) > len(OUTPUTS):
        raise Problem("bad_request", f"outputs: expected a list of at most {len(OUTPUTS)}, each once")
    names = [one.get("name") if isinstance(one, dict) else None for one in outputs]
    if unknown := [str(one)[:40] for one in names if not isinstance(one, str) or one not in OUTPUTS]:
        raise Problem("bad_request", f"unknown outputs {unknown}: expected some of {', '.join(OUTPUTS)}")
    if len(set(names)) < len(names):
        raise Problem("bad_request", "an output is asked for twice: expected each once")
    return names


def _own_id(given: Any) -> str | None:
    if given is not None and not (isinstance(given, str) and len(given) <= 100):
        raise Problem("bad_request", "id: expected at most 100 characters")
    return given


def _good(number: int, result: Result | Problem, wanted: str | None) -> Result:
    """The answer to image `number`. The protocol knows no errors of single images: one of them fails the request."""
    if isinstance(result, Problem):
        raise Problem(result.reason, f"image {number}: {result.detail}", result.headers)
    prediction, version = result.answered.prediction, result.answered.model.version
    if prediction.reason is not None:
        raise Problem(prediction.reason, f"image {number}: {prediction.detail}")
    if wanted not in (None, version):
        raise Problem("not_found", f"image {number}: version {version} answers it now, not {wanted}")
    return result


def _output(name: str, results: list[Result]) -> dict[str, Any]:
    kind, value = OUTPUTS[name]
    data = [value(one) for one in results]
    shape = [len(data)]
    if name == "probabilities":
        shape, data = [len(data), len(data[0])], [number for row in data for number in row]
    return {"name": name, "datatype": kind, "shape": shape, "data": data}


def _text(label: str | tuple[str, ...] | None) -> str:
    """A label as it is; several as a JSON list."""
    return label if isinstance(label, str) else json.dumps(list(label or ()), ensure_ascii=False)
