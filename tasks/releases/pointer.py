"""The pointer says what is live; it carries its digest and that of its predecessor: a hash chain."""

import hashlib
import json
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from tasks.common.errors import refuse_newer
from tasks.releases.bundle_store import StoreDamaged

POINTER_SCHEMA = 2  # 1 has neither `previous` nor `digest`
CHAINED = ("previous", "digest")
REPAIR = "Every pointer is stored twice: the newest file of pointers/ has the same content as champion.json."


class Pointer(BaseModel):
    """The live version. `seq` counts promotions from 1 without gaps.

    `uid` makes every pointer unique, so a stale compare-and-swap cannot mistake a newer pointer for the one it read.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_: Literal[1, 2] = Field(POINTER_SCHEMA, alias="schema")
    seq: int = Field(ge=1)
    uid: str = Field(pattern=r"^[0-9a-f]{32}$")
    version: str  # "v0.2.0"; the git tag <name>@v0.2.0
    run_id: str
    prev: str | None  # version that was live before; None for the first
    git_rev: str  # commit on the releases branch: params, dvc.lock, data.dvc of this version
    bundle: str = Field(pattern=r"^[0-9a-f]{64}$")  # sha256 of the bundle's MANIFEST.json
    at: AwareDatetime  # UTC
    by: str
    why: str
    previous: str | None = None  # sha256 of the predecessor as it is stored; None for the first
    digest: str | None = None  # sha256 of this pointer as it is stored, without this field


def successor(
    current: Pointer | None, *, version: str, run_id: str, git_rev: str, bundle: str, by: str, why: str
) -> Pointer:
    """The pointer that may replace `current` (None: the store's first). A rollback points to an old version."""
    at = datetime.now(UTC)
    if current is not None:  # times increase along the history even if a clock was set back
        at = max(at, current.at + timedelta(microseconds=1))
    pointer = Pointer(
        seq=current.seq + 1 if current else 1,
        uid=uuid.uuid4().hex,
        version=version,
        run_id=run_id,
        prev=current.version if current else None,
        git_rev=git_rev,
        bundle=bundle,
        at=at,
        by=by,
        why=why,
        previous=_sha256(encode(current)) if current else None,
    )
    return pointer.model_copy(update={"digest": _sealed(pointer)})


def encode(pointer: Pointer) -> bytes:
    """The bytes of `pointer` in the release store. The same pointer always has the same bytes."""
    fields = pointer.model_dump(mode="json", by_alias=True)
    if pointer.schema_ == 1:
        fields = {name: value for name, value in fields.items() if name not in CHAINED}
    return (json.dumps(fields, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()


def decode(content: bytes, key: str) -> Pointer:
    """The pointer stored as `content` under `key`. Raises StoreDamaged unless it is exactly what was written."""
    refuse_newer(_schema(content), POINTER_SCHEMA, f"{key} in the release store")
    try:
        pointer = Pointer.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise StoreDamaged(
            f"{key} in the release store cannot be read ({'.'.join(map(str, first['loc']))}: {first['msg']}). {REPAIR}"
        ) from None
    if pointer.schema_ > 1 and (pointer.digest != _sealed(pointer) or content != encode(pointer)):
        raise StoreDamaged(f"{key} in the release store was altered: its digest does not fit its content. {REPAIR}")
    return pointer


def broken_link(before: Pointer, after: Pointer) -> str | None:
    """Why `after` is not the successor of `before`; None if it is."""
    if after.seq != before.seq + 1:
        return f"promotion {after.seq} follows promotion {before.seq}"
    if after.prev != before.version:
        return f"promotion {after.seq} replaced {after.prev}, but promotion {before.seq} is {before.version}"
    if after.schema_ > 1 and after.previous != _sha256(encode(before)):
        return f"promotion {before.seq} is not the one that promotion {after.seq} replaced: its digest differs"
    return None


def _sealed(pointer: Pointer) -> str:
    return _sha256(encode(pointer.model_copy(update={"digest": None})))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _schema(content: bytes) -> Any:
    """The schema version that the JSON `content` states; None where it states none, or is not JSON."""
    try:
        value = json.loads(content)
    except ValueError:
        return None
    return value.get("schema") if isinstance(value, dict) else None
