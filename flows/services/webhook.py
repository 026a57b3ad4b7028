"""A signed webhook: another system's alarm starts a retraining.

    POST /hooks/retrain   {"reason": "camera 3 was replaced"}

Messages are signed after the Standard Webhooks specification: the headers webhook-id, webhook-timestamp (Unix seconds)
and webhook-signature, which is "v1," + base64 of HMAC-SHA256 over "id.timestamp.body". A message is valid for five
minutes and can be used once. Used messages are recorded on disk, so a restart does not forget them. The holder of the
key can only start a retraining: the reason is text for people.

Status codes: 200 started; 401 wrong or missing signature, or too old; 409 used before; 413 too large; 422 not the body
above; 503 no key is set, or Prefect does not answer (then the message may be sent again).
"""

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request

from flows.server.events import request_retrain
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.paths import state_dir
from tasks.common.text import single_spaced

TOLERANCE = 300  # seconds a message may be old, or its sender's clock ahead
REMEMBERED = 4 * TOLERANCE  # seconds; long after a message is refused as too old
LARGEST = 64 << 10  # bytes of body


def secret_key(secret: str) -> bytes:
    """Return the key in `secret`: base64 after "whsec_", as the specification writes it, else the text itself."""
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            raise EvergreenError("the webhook's secret begins with whsec_, but what follows is not base64") from None
    return secret.encode()


def signature(key: bytes, id_: str, timestamp: str, body: bytes) -> str:
    """Sign a message as the specification says."""
    signed = hmac.new(key, f"{id_}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(signed.digest()).decode()


def verified(key: bytes, headers: Mapping[str, str], body: bytes, now: float) -> str:
    """Return the id of a message that is signed with `key` and fresh.

    Raises PermissionError otherwise, without saying what was expected.
    """
    id_, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not id_ or len(id_) > 256 or "." in id_ or not timestamp.isascii() or not timestamp.isdigit():
        raise PermissionError("expected the headers webhook-id, webhook-timestamp (Unix seconds), webhook-signature")
    expected = signature(key, id_, timestamp, body).encode()
    given = headers.get("webhook-signature", "").split()[:10]  # several while a key is being replaced
    if not any([hmac.compare_digest(expected, one.encode()) for one in given]):
        raise PermissionError("the signature is wrong")
    if abs(now - int(timestamp[:15])) > TOLERANCE:
        raise PermissionError("the message is more than five minutes old, or from the future")
    return id_


def claim(folder: Path, id_: str, now: float) -> Path | None:
    """Mark message `id_` as used for as long as its signature is valid; None if it was used before."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if now - old.stat().st_mtime > REMEMBERED:
            old.unlink(missing_ok=True)
    path = folder / hashlib.sha256(id_.encode()).hexdigest()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return None
    os.fsync(handle)
    os.close(handle)
    return path


def reason_of(body: bytes) -> str:
    """Return the message's reason as one line of plain text. Raises ValueError if there is none."""
    try:
        about = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the body is not JSON") from None
    reason = about.get("reason") if isinstance(about, dict) else None
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError('expected {"reason": "some text"}')
    return re.sub(r"\{(?=[{%#])", "{ ", single_spaced(reason))[:500]  # Prefect puts it through a template language


def router(root: Path) -> APIRouter:
    """Make the route for the project at `root`."""
    hooks = APIRouter()

    @hooks.post("/hooks/retrain")
    async def retrain(request: Request) -> dict[str, str]:
        params = load_params(root / "params.yaml")
        secret = os.environ.get(params.serve.webhook_secret_env)
        if not secret:
            raise HTTPException(503, f"the webhook is off: {params.serve.webhook_secret_env} is not set")
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > LARGEST:
                raise HTTPException(413, f"more than {LARGEST} bytes")
        now = time.time()
        try:
            id_ = verified(secret_key(secret), request.headers, body, now)
        except PermissionError as error:
            raise HTTPException(401, str(error)) from None
        try:
            reason = reason_of(body)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        used = claim(state_dir(root) / "webhook", id_, now)
        if used is None:
            raise HTTPException(409, "this message was used before")
        try:
            event = request_retrain(root, "webhook", f"webhook: {reason}")
        except EvergreenError as error:
            used.unlink(missing_ok=True)  # nothing was started, so the sender may try again
            raise HTTPException(503, str(error)) from None
        return {"event": event}

    return hooks
