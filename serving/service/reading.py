"""Turn a request's body into the images that it asks about.

Three forms, told by Content-Type:

    image/*, application/octet-stream, none   the image itself; key, source, path and slices as parameters or headers
    application/json, or JSON from curl -d    {"image": BASE64, "key": ...}, or a list of these, or {"images": [...]}
    multipart/form-data                       a file `image` with fields key, ..., or files `images` with a field
                                              `about`: a JSON list with one object for each

A list gets a list of answers: a bad image in it is a problem of its own and leaves the others alone.
"""

import binascii
from collections.abc import Mapping
from typing import Any, NamedTuple

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header
from starlette.datastructures import Headers

from serving.service.about_image import FIELDS, make_asked, parse_json, parse_slices
from serving.service.contracts import Asked
from serving.service.problems import Problem
from serving.service.settings import Settings

FORM = "application/x-www-form-urlencoded"  # what curl says of --data-binary and -d
RAW = ("", "application/octet-stream", FORM)
FIELD_BYTES = 1 << 20  # of a field of a form that is not a file: JSON can take twenty times as much memory
PART_HEADERS = 4096  # bytes of the headers of one part of a form


class Read(NamedTuple):
    """The images of a request."""

    images: list[Asked | Problem]
    many: bool  # the answer is a list


def is_raw(kind: str) -> bool:
    """Is the body the image itself?"""
    return kind in RAW or kind.startswith("image/")


def is_json(kind: str, body: bytes) -> bool:
    """Is the body JSON? Also from curl -d '{...}', which says that it is a form: no image begins so."""
    return kind == "application/json" or (kind == FORM and body[:1] in (b"{", b"["))


def media_type(headers: Headers) -> str:
    return headers.get("content-type", "").split(";", 1)[0].strip().lower()


def read_images(body: bytes, headers: Headers, parameters: Mapping[str, str], settings: Settings) -> Read:
    """Raises Problem if the request as a whole cannot be read."""
    kind = media_type(headers)
    if is_json(kind, body):
        kind = "application/json"
    if is_raw(kind):
        return Read([make_asked(body, _fields(headers, parameters), settings.max_bytes)], False)
    if any(name in parameters for name in FIELDS):
        raise Problem("bad_request", f"{', '.join(FIELDS)} belong into the body of a {kind} request")
    if kind == "application/json":
        return _read_json(body, settings)
    if kind == "multipart/form-data":
        return _read_form(body, headers, settings)
    raise Problem(
        "unsupported_media_type",
        f"Content-Type {kind}: expected an image, application/json or multipart/form-data",
    )


def _fields(headers: Headers, parameters: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in FIELDS:
        text = parameters.get(name)
        if text is None and (sent := headers.get(f"x-{name}")) is not None:
            try:
                text = sent.encode("latin-1").decode()
            except UnicodeError:
                raise Problem("bad_request", f"the header X-{name} is not in UTF-8") from None
        if text is not None:
            found[name] = parse_slices(text) if name == "slices" else text
    return found


def _read_json(body: bytes, settings: Settings) -> Read:
    content = parse_json(body, "the body")
    many = isinstance(content, list)
    if isinstance(content, dict) and "images" in content:
        if len(content) > 1 or not isinstance(content["images"], list):
            raise Problem("bad_request", "expected {'images': [...]} with a list and without other fields")
        content, many = content["images"], True
    if not many:
        return Read([_from_json(content, settings)], False)
    _check_count(len(content), settings)
    return Read([_or_problem(one, settings) for one in content], True)


def _or_problem(content: Any, settings: Settings) -> Asked | Problem:
    try:
        return _from_json(content, settings)
    except Problem as problem:
        return problem


def _from_json(content: Any, settings: Settings) -> Asked:
    if not isinstance(content, dict):
        raise Problem("bad_request", f"an image is a {type(content).__name__}, expected an object with `image`")
    text = content.get("image")
    if not isinstance(text, str):
        raise Problem("no_image", "expected `image`: the image's bytes in base64")
    about = {name: value for name, value in content.items() if name != "image"}
    return make_asked(from_base64(text, settings.max_bytes), about, settings.max_bytes)


def from_base64(text: str, limit: int) -> bytes:
    """The bytes of an image of at most `limit` bytes. Raises Problem."""
    if text.startswith("data:"):  # as browsers' canvases give it
        text = text.partition(",")[2]
    text = "".join(text.split())  # tools wrap lines
    if len(text) > limit * 4 // 3 + 4:
        raise Problem("body_too_large", f"the image has about {len(text) * 3 // 4:,} bytes, {limit:,} is the limit")
    try:
        return binascii.a2b_base64(text, strict_mode=True) if text else b""
    except ValueError as error:  # also of characters outside ASCII
        raise Problem("bad_base64", f"`image` is not base64: {error}") from None


def _check_count(count: int, settings: Settings) -> None:
    if not count:
        raise Problem("no_image", "the list is empty")
    if count > settings.max_images:
        raise Problem("too_many_images", f"{count} images in one request, {settings.max_images} is the limit")


def _read_form(body: bytes, headers: Headers, settings: Settings) -> Read:
    _, options = parse_options_header(headers.get("content-type", ""))
    if not options.get("boundary"):
        raise Problem("bad_form", "Content-Type names no boundary")
    fields, files = _parts(body, options["boundary"], settings)
    names = {name for name, _ in files}
    if names == {"image"} and len(files) == 1:
        about = {name: _decoded(name, value) for name, value in fields.items()}
        if "slices" in about:
            about["slices"] = parse_slices(about["slices"])
        return Read([make_asked(files[0][1], about, settings.max_bytes)], False)
    if names != {"images"}:
        found = [name for name, _ in files][:5]
        raise Problem("no_image", f"the form has files {found}, expected one `image`, or each called `images`")
    _check_count(len(files), settings)
    if unknown := sorted(set(fields) - {"about"}):
        raise Problem("bad_request", f"unknown fields {unknown[:10]}: `images` have one, `about`")
    about = parse_json(fields["about"], "about") if "about" in fields else [{}] * len(files)
    if not isinstance(about, list) or len(about) != len(files):
        raise Problem("bad_request", f"`about` is not a list with an object for each of the {len(files)} images")
    return Read([_of_form(data, of, settings) for (_, data), of in zip(files, about, strict=True)], True)


def _of_form(data: bytes, about: Any, settings: Settings) -> Asked | Problem:
    try:
        if not isinstance(about, dict):
            raise Problem("bad_request", f"a member of `about` is a {type(about).__name__}, expected an object")
        return make_asked(data, about, settings.max_bytes)
    except Problem as problem:
        return problem


def _decoded(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeError:
        raise Problem("bad_request", f"the field {name[:40]!r} is not in UTF-8") from None


def _parts(body: bytes, boundary: str, settings: Settings) -> tuple[dict[str, bytes], list[tuple[str, bytes]]]:
    """(field -> content, [(name, content of a file)])."""
    fields: dict[str, bytearray] = {}
    files: list[tuple[str, bytearray]] = []
    content: bytearray = bytearray()
    is_file = False
    try:
        with PushMultipartParser(
            boundary,
            max_segment_count=settings.max_images + len(FIELDS),
            max_header_size=PART_HEADERS,
            strict=True,
        ) as parser:
            for event in parser.parse(body):
                if isinstance(event, MultipartSegment):
                    content = bytearray()
                    is_file = event.filename is not None or event.name in ("image", "images")
                    if is_file:
                        files.append((event.name, content))
                    elif event.name in fields:
                        raise Problem("bad_form", f"the field {event.name[:40]!r} comes twice")
                    else:
                        fields[event.name] = content
                elif event is not None:
                    content += event
                    if not is_file and len(content) > FIELD_BYTES:
                        raise Problem("body_too_large", f"a field of the form has more than {FIELD_BYTES:,} bytes")
    except (MultipartError, ValueError, LookupError) as error:
        raise Problem("bad_form", f"the form cannot be read: {error}") from None
    return {name: bytes(value) for name, value in fields.items()}, [(name, bytes(data)) for name, data in files]
