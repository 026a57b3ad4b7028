"""Problem responses: a status, a reason from a closed list, and a sentence.

The body is that of RFC 9457, "Problem Details for HTTP APIs" (application/problem+json), with `reason` for programs.
"""

import json
from collections.abc import Mapping

from tasks.common.schemas import QUARANTINE_REASONS
from tasks.common.text import one_line

CONTENT_TYPE = "application/problem+json"
LONGEST = 500  # characters of a sentence: it quotes what came in

STATUS: Mapping[str, int] = {
    # of the request
    "bad_request": 400,  # a header, parameter or field cannot be read
    "bad_json": 400,
    "bad_form": 400,  # multipart/form-data
    "bad_base64": 400,
    "no_image": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "slow_body": 408,
    "body_too_large": 413,
    "too_many_images": 413,
    "unsupported_media_type": 415,
    "bad_label": 422,  # feedback
    "no_heat": 422,  # the model has no heat for this image
    "too_many_requests": 429,  # the client's own rate
    "queue_full": 429,
    # of the image: reasons of ingest
    "empty_file": 400,
    "unknown_format": 415,
    "archive": 415,
    "too_many_pixels": 413,
    "too_small": 422,
    "truncated": 422,
    "undecodable": 422,
    # of the service
    "failed": 500,
    "not_ready": 503,
    "deadline": 503,  # the image waited too long
    "model_failed": 503,
    "not_kept": 503,  # the store of feedback is down
}


class Problem(Exception):
    """A request, or one image of it, that gets no answer."""

    def __init__(self, reason: str, detail: str, headers: Mapping[str, str] | None = None):
        super().__init__(reason, detail)
        self.reason, self.headers = reason, headers or {}
        self.detail = one_line(detail, LONGEST)
        self.status = STATUS.get(reason, 422 if reason in QUARANTINE_REASONS else 500)

    def fields(self, request: str | None = None) -> dict:
        """The members of the JSON object."""
        found = {"title": self.reason.replace("_", " "), "status": self.status}
        found |= {"reason": self.reason, "detail": self.detail}
        return found | ({"request": request} if request else {})

    def body(self, request: str | None = None) -> bytes:
        return json.dumps(self.fields(request)).encode()
