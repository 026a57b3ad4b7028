"""GET /model, /health and /ready."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from serving.live import Model
from serving.service.answer import to_json
from serving.service.problems import CONTENT_TYPE, Problem
from serving.service.service import Service


def about(model: Model) -> dict[str, Any]:
    """What a client needs to know of a model."""
    said = model.predictor.about
    found = {"version": model.version, "bundle": model.predictor.digest}
    found |= {name: said.get(name) for name in ("task", "classes", "preprocess", "thresholds", "weights", "hierarchy")}
    return found | {"ood_threshold": said["ood"]["threshold"], "provisional": model.predictor.provisional}


class About:
    """The endpoints."""

    def __init__(self, service: Service):
        self._service = service

    async def model(self, request: Request) -> Response:
        """The models that answer now, by role."""
        models = self._service.router.models()
        if "live" not in models:
            return _problem(Problem("not_ready", "no model is loaded yet", {"retry-after": "1"}))
        others = {role: about(model) for role, model in models.items() if role != "live"}
        return _json(about(models["live"]) | ({"others": others} if others else {}))

    async def health(self, request: Request) -> Response:
        """The process lives and its event loop answers."""
        return _json({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """A load balancer may send requests here."""
        if not self._service.ready:
            return _problem(Problem("not_ready", "the service starts or stops", {"retry-after": "1"}))
        return _json({"status": "ready", "waiting": self._service.waiting})


def _json(content: Any) -> Response:
    return Response(to_json(content), media_type="application/json")


def _problem(problem: Problem) -> Response:
    return Response(problem.body(), problem.status, dict(problem.headers), CONTENT_TYPE)
