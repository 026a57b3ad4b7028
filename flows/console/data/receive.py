"""Read a form with files as it comes: fields in memory, files straight to disk, everything bounded.

The token must come before the first file, as our form sends it: no byte of a stranger reaches the disk.
"""

import shutil
from pathlib import Path

from fastapi import HTTPException, Request
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from flows.console.shell.posted import Posted, check_token
from flows.project.unpack import Limits
from flows.project.uploads import safe_name
from tasks.common.private import open_private

FIELD = 4096  # bytes of a field
PARTS = 5000  # fields and files of one form
ROOM = 0.5  # share of the free disk that may be filled


async def receive(request: Request, folder: Path, limits: Limits) -> tuple[Posted, list[str]]:
    """(the fields of the form, what the browser called its files, which are in `folder` now).

    Raises HTTPException for a form that no page of ours sent, or that is too large.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise HTTPException(400, "expected a form with files (multipart/form-data)")
    most = min(limits.bytes, int(ROOM * shutil.disk_usage(folder).free))
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most:
        raise HTTPException(413, _too_large(most), {"Connection": "close"})
    form = _Form(request, folder)
    try:
        with PushMultipartParser(options["boundary"], max_segment_count=PARTS, strict=True) as parser:
            received = 0
            async for chunk in request.stream():
                received += len(chunk)
                if received > most:
                    raise HTTPException(413, _too_large(most), {"Connection": "close"})
                for event in parser.parse(chunk):
                    form.take(event)
    except MultipartError as error:
        raise HTTPException(400, f"the form cannot be read: {error}", {"Connection": "close"}) from None
    finally:
        form.close()
    form.check()
    fields = {name: [text.decode("utf-8", "replace")] for name, text in form.fields.items() if name != "token"}
    request.state.form = Posted(fields)
    return request.state.form, form.names


class _Form:
    """The parts of a form, as the parser meets them."""

    def __init__(self, request: Request, folder: Path):
        self.request, self.folder = request, folder
        self.fields: dict[str, bytearray] = {}
        self.names: list[str] = []
        self.stored: list[str] = []
        self.checked = False
        self._field = ""
        self._file = None

    def check(self) -> None:
        """Raise HTTPException unless the form's token is right."""
        if not self.checked:
            check_token(self.request, self.fields.get("token", bytearray()).decode("utf-8", "replace"))
            self.checked = True

    def take(self, event: MultipartSegment | bytearray | None) -> None:
        """One event of the parser: a part begins, has more bytes, or (None) ends."""
        if event is None:
            self.close()
        elif isinstance(event, MultipartSegment):
            self._begin(event)
        elif self._file is not None:
            self._file.write(event)
        elif self._field is not None:
            text = self.fields[self._field]
            text += event
            if len(text) > FIELD:
                raise HTTPException(413, f"the field {self._field[:40]!r} is too long", {"Connection": "close"})

    def _begin(self, part: MultipartSegment) -> None:
        self.close()
        if part.filename is None:
            self._field = part.name or ""
            self.fields[self._field] = bytearray()
            return
        self.check()
        self._field = None
        if not part.filename:  # no file was chosen
            return
        name = safe_name(part.filename, self.stored)
        self.names.append(part.filename[:200])
        self.stored.append(name)
        self._file = open(self.folder / name, "wb", opener=open_private)  # noqa: SIM115 - `close` closes it

    def close(self) -> None:
        """End the file that is being written."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _too_large(most: int) -> str:
    return (
        f"This is larger than the {most / 1e9:,.1f} GB that are taken here: send it in parts, or `evergreen ingest` "
        "the folder on the machine itself."
    )
