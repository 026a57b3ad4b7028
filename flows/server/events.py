"""The Prefect events that start a retraining: `evergreen.<cause>.retrain`.

They name the checkout (tasks.common.checkout), not the model: a copied project's button must not start runs in the
original. Each event has an automation (flows.services.runner). Causes: drift (the monitor decided; the payload
names the window), webhook (another system asked), person (a button of the console).
"""

from pathlib import Path

from flows.server.api import emit
from flows.server.process import api_of
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError

CAUSES = ("drift", "webhook", "person")
EVENTS = tuple(f"evergreen.{cause}.retrain" for cause in CAUSES)
PERSON = "evergreen.person.retrain"  # the one event that a pause does not stop


def resource(checkout_id: str) -> str:
    """Resource id of a checkout in Prefect's events."""
    return f"evergreen.{checkout_id}"


def request_retrain(root: Path, cause: str, reason: str, window: str | None = None) -> str:
    """Send the event and return its id. Raises EvergreenError if no server takes it: then nothing was started."""
    api = api_of(root)
    if api is None:
        raise EvergreenError(
            f"a retraining was requested ({reason}), but no Prefect server runs here to start it: run `evergreen up` "
            "to start the services, or `evergreen retrain` for one run"
        )
    payload = {"reason": reason, "window": window or ""}
    return emit(api, f"evergreen.{cause}.retrain", resource(checkout(root).id), payload)
