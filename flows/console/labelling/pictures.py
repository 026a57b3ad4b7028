"""Answer a request for an image of a queue with bytes that browsers show."""

from fastapi import HTTPException, Request
from fastapi.responses import Response

from flows.console.labelling.state import Labelling
from flows.labels.sitting_images import read_image
from monitoring.review.label_studio import shown

KEEP = "private, max-age=86400, immutable"  # the address names the content


def answer(request: Request, found: Labelling, image: str, queue: str) -> Response:
    """The image with this id; 304 if the browser has it."""
    tag = f'"{image}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag, "Cache-Control": KEEP})
    entry = found.queues.find(queue, image, found.params, found.console.log())
    content = read_image(found.root, found.console.log(), entry) if entry else None
    if content is None:
        raise HTTPException(404, "This image is not there any more: the log keeps images for a time only.")
    kind, content = shown(content, found.params.images.max_pixels)
    return Response(content, media_type=f"image/{kind}", headers={"ETag": tag, "Cache-Control": KEEP})
