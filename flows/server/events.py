"""The Prefect events that start a retraining: `evergreen.<cause>.retrain`.

Each event has an automation (flows.services.runner). Causes: drift (the monitor decided; the payload names the window),
webhook (another system asked), person (the button on the report pages).
"""

import os
from pathlib import Path

from flows.server.api import emit
from flows.server.process import running
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params

CAUSES = ("drift", "webhook", "person")
EVENTS = tuple(f"evergreen.{cause}.retrain" for cause in CAUSES)


def resource(name: str) -> str:
    """Resource id of the model `name` in Prefect's events."""
    return f"evergreen.{name}"


def request_retrain(root: Path, cause: str, reason: str, window: str | None = None) -> str:
    """Send the event and return its id. Raises EvergreenError if no server takes it: then nothing was started."""
    api = os.environ.get("PREFECT_API_URL") or (running(root) or {}).get("url")
    if not api:
        raise EvergreenError(
            f"a retraining was requested ({reason}), but no Prefect server runs here to start it: run `evergreen up` "
            "to start the services, or `evergreen retrain` for one run"
        )
    name = load_params(root / "params.yaml").bundle.name
    return emit(api, f"evergreen.{cause}.retrain", resource(name), {"reason": reason, "window": window or ""})
