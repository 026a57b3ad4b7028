"""A client of Prefect's REST API that does not import Prefect.

Prefect's own client takes two seconds to load.

A 4xx/5xx reply, or none, raises EvergreenError with the address and the server's own words. Before that, requests are
retried as Prefect's own client does: with SQLite a busy server answers 503 without having done anything.
"""

import json
import os
import time
import urllib.error
import urllib.request
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tasks.common.access import basic
from tasks.common.errors import EvergreenError
from tasks.common.loopback import open_url

RETRIED = (429, 502, 503)  # the statuses that Prefect's own client retries
TRIES, LONGEST_WAIT = 6, 5.0  # wait: seconds between two tries, at most


@dataclass(frozen=True)
class Api:
    """A Prefect API and how to sign in there."""

    url: str
    auth: str | None = field(default=None, repr=False)  # "user:password"; None: the server asks for none

    @classmethod
    def from_environment(cls) -> "Api | None":
        """The API that PREFECT_API_URL names; None if it is not set."""
        url = os.environ.get("PREFECT_API_URL")
        return cls(url.rstrip("/"), os.environ.get("PREFECT_API_AUTH_STRING") or None) if url else None

    def environment(self) -> dict[str, str]:
        """What a child process needs to use this API, through Prefect or through this module."""
        return {"PREFECT_API_URL": self.url} | ({"PREFECT_API_AUTH_STRING": self.auth} if self.auth else {})

    def post(self, path: str, body: Any) -> Any:
        """Send one POST request; see `call`."""
        return self.call("POST", path, body)

    def call(self, method: str, path: str, body: Any = None, seconds: float = 20) -> Any:
        """Send one request, JSON in and out; None for an empty reply."""
        url, headers = self.url + path, {"Content-Type": "application/json"}
        if self.auth:
            headers["Authorization"] = basic(self.auth)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers, method=method)
        for number in range(1, TRIES + 1):
            try:
                with open_url(request, seconds) as got:
                    text = got.read()
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code in RETRIED and number < TRIES:
                    time.sleep(_wait(error.headers.get("Retry-After"), number))
                    continue
                raise EvergreenError(_refused(url, error)) from None
            except (urllib.error.URLError, OSError) as error:
                raise EvergreenError(
                    f"Prefect at {url} does not answer ({getattr(error, 'reason', error)}): "
                    "`evergreen up` starts the services"
                ) from None


def _refused(url: str, error: urllib.error.HTTPError) -> str:
    said = f"Prefect at {url} answered {error.code}: {error.read(300).decode(errors='replace')}"
    if error.code == 401:
        said += (
            ". For a server of your own (PREFECT_API_URL), PREFECT_API_AUTH_STRING must hold its user:password; "
            'for this project\'s, sign this shell in again: `eval "$(evergreen open --env)"`'
        )
    return said


def _wait(asked: str | None, number: int) -> float:
    """Seconds before the next try: what the server asks for, else twice as long each time."""
    return min(int(asked) if asked and asked.isdecimal() else 0.1 * 2**number, LONGEST_WAIT)


def emit(api: Api, event: str, resource: str, payload: dict[str, Any]) -> str:
    """Send one event and return its id once the server has it; automations that wait for it start at once."""
    id_ = str(uuid.uuid4())
    about = {
        "id": id_,
        "event": event,
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": resource},
        "payload": payload,
    }
    api.post("/events", [about])
    return id_
