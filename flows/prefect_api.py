"""Prefect's REST API without importing Prefect: its client costs two seconds, most questions a few milliseconds.

A 4xx/5xx reply or no reply at all raises EvergreenError with the address and the server's own words.
"""

import base64
import json
import os
import urllib.error
import urllib.request
import uuid
from datetime import UTC, datetime
from typing import Any

from tasks.errors import EvergreenError


def call(method: str, url: str, body: Any = None, seconds: float = 20) -> Any:
    """One request, JSON in and out; None for an empty reply. Signs in where PREFECT_API_AUTH_STRING is set."""
    headers = {"Content-Type": "application/json"}
    if auth := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = f"Basic {base64.b64encode(auth.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=seconds) as got:
            text = got.read()
    except urllib.error.HTTPError as error:
        raise EvergreenError(
            f"Prefect at {url} answered {error.code}: {error.read(300).decode(errors='replace')}"
        ) from (None)
    except (urllib.error.URLError, OSError) as error:
        raise EvergreenError(
            f"Prefect at {url} does not answer ({getattr(error, 'reason', error)}): `evergreen up` starts the services"
        ) from None
    return json.loads(text) if text else None


def post(url: str, body: Any) -> Any:
    return call("POST", url, body)


def emit(api: str, event: str, resource: str, payload: dict[str, Any]) -> str:
    """Send one event and return its id once the server has it; automations that expect it start at once."""
    id_ = str(uuid.uuid4())
    about = {
        "id": id_,
        "event": event,
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": resource},
        "payload": payload,
    }
    post(f"{api}/events", [about])
    return id_
