"""Requests to POST /predict that no honest client sends, and what the service must say to each."""

import base64
import io
import json
import struct
import zlib
from typing import NamedTuple

from PIL import Image

from tests.support.hostile import PAYLOADS

FORM = {"content-type": "multipart/form-data; boundary=b"}
JSON = {"content-type": "application/json"}


class Hostile(NamedTuple):
    """One request to /predict; `reason` is that of the problem in the response."""

    status: int
    reason: str
    body: bytes = b""
    headers: dict[str, str] = {}
    query: str = ""


def photo(side: int = 32, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A header that says width x height, and a few bytes of pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def form(*parts: tuple[str, bytes]) -> bytes:
    """A multipart body of parts (headers, content)."""
    return b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n" for head, data in parts) + b"--b--\r\n"


def in_json(**fields) -> bytes:
    return json.dumps({"image": base64.b64encode(photo()).decode()} | fields).encode()


FILE = 'Content-Disposition: form-data; name="image"; filename="x"'
FILES = 'Content-Disposition: form-data; name="images"; filename="x"'

IMAGES = {
    "nothing": Hostile(400, "empty_file"),
    "text": Hostile(415, "unknown_format", b"hello"),
    "a script": Hostile(415, "unknown_format", PAYLOADS[0].encode()),
    "an SVG": Hostile(
        415, "unknown_format", b"<svg xmlns='http://www.w3.org/2000/svg'/>", {"content-type": "image/svg+xml"}
    ),
    "a zip": Hostile(415, "archive", b"PK\x03\x04" + bytes(100)),
    "gzip": Hostile(415, "archive", b"\x1f\x8b" + bytes(100)),
    "an EPS": Hostile(415, "unknown_format", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"),
    "a bomb": Hostile(413, "too_many_pixels", huge_png(60_000, 60_000)),
    "a wide bomb": Hostile(413, "too_many_pixels", huge_png(2_000_000_000, 2)),
    "no pixels": Hostile(415, "unknown_format", huge_png(0, 0)),
    "a speck": Hostile(422, "too_small", photo(7)),
    "half a PNG": Hostile(422, "truncated", photo(64)[:-60]),
    "half a JPEG": Hostile(422, "truncated", photo(64, "JPEG")[:-100]),
    "pixels missing": Hostile(422, "truncated", huge_png(100, 100)),
    "too many bytes": Hostile(413, "body_too_large", photo() + bytes(200_001)),
}

ENVELOPES = {
    "XML": Hostile(415, "unsupported_media_type", b"<a/>", {"content-type": "application/xml"}),
    "HTML": Hostile(415, "unsupported_media_type", b"<a>", {"content-type": "text/html"}),
    "a strange type": Hostile(415, "unsupported_media_type", b"x", {"content-type": "x" * 3000}),
    "an encoded body": Hostile(415, "unsupported_media_type", b"x", {"content-encoding": "gzip"}),
    "an unknown parameter": Hostile(400, "bad_request", photo(), query="?topp=3"),
    "a parameter twice": Hostile(400, "bad_request", photo(), query="?key=a&key=b"),
    "many parameters": Hostile(400, "bad_request", photo(), query="?" + "&".join(f"a{n}=1" for n in range(99))),
    "a negative top": Hostile(400, "bad_request", photo(), query="?top=-1"),
    "a top of letters": Hostile(400, "bad_request", photo(), query="?top=five"),
    "an endless top": Hostile(400, "bad_request", photo(), query="?top=" + "9" * 4000),
    "a top of foreign digits": Hostile(400, "bad_request", photo(), query="?top=%D9%A3"),
    "heat of a word": Hostile(400, "bad_request", photo(), query="?heat=yes"),
    "heat of a list": Hostile(400, "bad_request", b"[{}]", JSON, "?heat=1"),
    "a broken escape": Hostile(400, "bad_request", photo(), query="?key=%ff%fe"),
    "a key of a page": Hostile(400, "bad_request", photo(), query="?key=" + "k" * 5000),
    "slices of no JSON": Hostile(400, "bad_json", photo(), query="?slices=abc"),
    "slices of a list": Hostile(400, "bad_request", photo(), query="?slices=[1]"),
    "a slice of a number": Hostile(400, "bad_request", photo(), {"x-slices": '{"a": 1}'}),
    "an empty slice": Hostile(400, "bad_request", photo(), {"x-slices": '{"a": ""}'}),
    "hundreds of slices": Hostile(
        400, "bad_request", photo(), {"x-slices": json.dumps({f"a{n}": "b" for n in range(300)})}
    ),
    "a header in Latin-1": Hostile(400, "bad_request", photo(), {"x-key": b"\xff\xfe"}),
}

OBJECTS = {
    "no JSON": Hostile(400, "bad_json", b"{", JSON),
    "an empty body": Hostile(400, "bad_json", b"", JSON),
    "JSON in UTF-16": Hostile(400, "bad_json", '{"image": ""}'.encode("utf-16"), JSON),
    "not a number": Hostile(400, "bad_json", b'{"image": NaN}', JSON),
    "a deep nest": Hostile(400, "bad_json", b"[" * 200_000, JSON),
    "a deep nest that ends": Hostile(400, "bad_json", b"[" * 100_000 + b"]" * 100_000, JSON),
    "an endless number": Hostile(400, "bad_json", b'{"image": ' + b"9" * 10_000 + b"}", JSON),
    "a number": Hostile(400, "bad_request", b"5", JSON),
    "null": Hostile(400, "bad_request", b"null", JSON),
    "an empty object": Hostile(400, "no_image", b"{}", JSON),
    "an empty list": Hostile(400, "no_image", b"[]", JSON),
    "images and more": Hostile(400, "bad_request", b'{"images": [], "key": "a"}', JSON),
    "images of text": Hostile(400, "bad_request", b'{"images": "abc"}', JSON),
    "too many images": Hostile(413, "too_many_images", b"[1,1,1,1,1]", JSON),
    "an image of a number": Hostile(400, "no_image", b'{"image": 5}', JSON),
    "an empty image": Hostile(400, "empty_file", b'{"image": ""}', JSON),
    "base64 of nothing": Hostile(400, "bad_base64", b'{"image": "!!!"}', JSON),
    "base64 cut off": Hostile(400, "bad_base64", b'{"image": "abc"}', JSON),
    "base64 with more behind": Hostile(400, "bad_base64", b'{"image": "YQ==YQ=="}', JSON),
    "letters outside ASCII": Hostile(400, "bad_base64", '{"image": "éé"}'.encode(), JSON),
    "an unknown field": Hostile(400, "bad_request", in_json(lable="a"), JSON),
    "a key of a number": Hostile(400, "bad_request", in_json(key=5), JSON),
    "a key of half a letter": Hostile(400, "bad_request", in_json(key="\ud800"), JSON),
    "a path of a list": Hostile(400, "bad_request", in_json(path=["a"]), JSON),
    "slices of text": Hostile(400, "bad_request", in_json(slices="a"), JSON),
    "a large image in base64": Hostile(413, "body_too_large", in_json(image="A" * 300_000), JSON),
    "a large body": Hostile(413, "body_too_large", b" " * 1_000_001, JSON),
    "a key beside the body": Hostile(400, "bad_request", in_json(), JSON, "?key=a"),
}

FORMS = {
    "no boundary": Hostile(400, "bad_form", b"", {"content-type": "multipart/form-data"}),
    "a boundary of a page": Hostile(
        400, "bad_form", b"", {"content-type": f"multipart/form-data; boundary={'b' * 3000}"}
    ),
    "an empty form": Hostile(400, "bad_form", b"", FORM),
    "a form without parts": Hostile(400, "no_image", b"--b--\r\n", FORM),
    "a form cut off": Hostile(400, "bad_form", form((FILE, photo()))[:-20], FORM),
    "another boundary": Hostile(400, "bad_form", form((FILE, photo())).replace(b"--b", b"--c"), FORM),
    "a part without a name": Hostile(400, "bad_form", form(("Content-Disposition: form-data", b"x")), FORM),
    "a part without headers": Hostile(400, "bad_form", b"--b\r\n\r\nx\r\n--b--\r\n", FORM),
    "headers of a part without end": Hostile(400, "bad_form", form((FILE + "\r\nX: " + "x" * 9000, b"x")), FORM),
    "a file of another name": Hostile(400, "no_image", form((FILE.replace("image", "photo"), photo())), FORM),
    "two files called image": Hostile(400, "no_image", form((FILE, photo()), (FILE, photo())), FORM),
    "image and images": Hostile(400, "no_image", form((FILE, photo()), (FILES, photo())), FORM),
    "many parts": Hostile(400, "bad_form", form(*[(FILES, b"x")] * 30), FORM),
    "more images than allowed": Hostile(413, "too_many_images", form(*[(FILES, photo())] * 5), FORM),
    "a field twice": Hostile(
        400, "bad_form", form((FILE, photo()), *[('Content-Disposition: form-data; name="key"', b"a")] * 2), FORM
    ),
    "an unknown form field": Hostile(
        400, "bad_request", form((FILE, photo()), ('Content-Disposition: form-data; name="evil"', b"a")), FORM
    ),
    "a field in Latin-1": Hostile(
        400, "bad_request", form((FILE, photo()), ('Content-Disposition: form-data; name="key"', b"\xff")), FORM
    ),
    "about of no JSON": Hostile(
        400, "bad_json", form((FILES, photo()), ('Content-Disposition: form-data; name="about"', b"{")), FORM
    ),
    "about too short": Hostile(
        400, "bad_request", form((FILES, photo()), ('Content-Disposition: form-data; name="about"', b"[]")), FORM
    ),
    "a file of text": Hostile(415, "unknown_format", form((FILE, b"text")), FORM),
}

HOSTILE = IMAGES | ENVELOPES | OBJECTS | FORMS
