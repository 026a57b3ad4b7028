"""A signed webhook: another system's alarm starts a retraining.

    POST /hooks/retrain   {"reason": "camera 3 was replaced"}

Messages are signed after the Standard Webhooks specification: the headers webhook-id, webhook-timestamp (Unix seconds)
and webhook-signature, which is "v1," + base64 of HMAC-SHA256 over "id.timestamp.body". A message is valid for five
minutes and can be used once. Used messages are recorded on disk, so a restart does not forget them. The holder of the
key can only start a retraining: the reason is text for people.

Status codes: 200 started; 401 wrong or missing signature, or too old; 408 not whole within 10 s; 409 used before; 413
too large; 422 not the body above; 503 no key is set, or Prefect does not answer (then the message may be sent again).
"""

import base64
import binascii
import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from fastapi import APIRouter, HTTPException, Request

from flows.server.events import request_retrain
from tasks.common import request_body
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.paths import state_dir
from tasks.common.private import make_folder, open_private
from tasks.common.request_body import BodyRefused
from tasks.common.text import single_spaced

REMEMBERED = 1200  # seconds; a message is refused as too old after 300
LARGEST = 64 << 10  # bytes of body


def secret_key(secret: str) -> bytes:
    """Return the key in `secret`: base64 after "whsec_", as the specification writes it, else the text itself."""
    if secret.startswith("whsec_"):
        try:
            key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            raise EvergreenError("the webhook's secret begins with whsec_, but what follows is not base64") from None
        if not key:  # anybody could sign with an empty key
            raise EvergreenError("the webhook's secret is whsec_ with nothing after it: expected base64 of the key")
        return key
    return secret.encode()


def verified(key: bytes, headers: Mapping[str, str], body: bytes) -> str:
    """Return the id of a message that is signed with `key` and fresh.

    Raises PermissionError otherwise, without saying what was expected.
    """
    from standardwebhooks import Webhook, WebhookVerificationError

    id_ = headers.get("webhook-id", "")
    if len(id_) > 256 or "." in id_:  # a dot would let the signed text be cut at another place
        raise PermissionError("webhook-id must be at most 256 characters without a dot")
    try:
        Webhook(key).verify(body, dict(headers), json_parse=False)
    except WebhookVerificationError as error:
        raise PermissionError(str(error)) from None
    except ValueError:  # of a header or body that cannot be decoded
        raise PermissionError("malformed signature or body") from None
    return id_


def claim(folder: Path, id_: str, now: float) -> Path | None:
    """Mark message `id_` as used for as long as its signature is valid; None if it was used before."""
    make_folder(folder)
    for old in folder.iterdir():
        if now - old.stat().st_mtime > REMEMBERED:
            old.unlink(missing_ok=True)
    path = folder / hashlib.sha256(id_.encode()).hexdigest()
    try:
        handle = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
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
        try:
            body = await request_body.read_body(request.stream(), LARGEST)
        except BodyRefused as refused:
            raise HTTPException(refused.status, str(refused), {"Connection": "close"}) from None
        try:
            id_ = verified(secret_key(secret), request.headers, body)
        except PermissionError as error:
            raise HTTPException(401, str(error)) from None
        except EvergreenError as error:
            raise HTTPException(503, f"the webhook is off: {error}") from None
        try:
            reason = reason_of(body)
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
        used = claim(state_dir(root) / "webhook", id_, time.time())
        if used is None:
            raise HTTPException(409, "this message was used before")
        try:
            event = request_retrain(root, "webhook", f"webhook: {reason}")
        except EvergreenError as error:
            used.unlink(missing_ok=True)  # nothing was started, so the sender may try again
            raise HTTPException(503, str(error)) from None
        return {"event": event}

    return hooks
