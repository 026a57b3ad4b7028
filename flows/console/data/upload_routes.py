"""The addresses of an upload: send files, read what a dry run understood, take them or not."""

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from flows.console.data.receive import receive
from flows.console.jobs.store import newest_job, start_job
from flows.console.people.roles import need
from flows.console.shell.console import console_of
from flows.console.shell.page import csv_download, page
from flows.console.shell.posted import Posted, back, posted
from flows.project import uploads
from flows.project.unpack import Limits
from tasks.common.errors import EvergreenError

KINDS = {
    "import": "images to train and test with",
    "hard": "the hard set: images that no new model may lose",
    "synthetic": "synthetic: made by a program, only to train with",
}
LIMITS = Limits()

router = APIRouter()


@router.get("/data/upload")
def form(request: Request) -> Response:
    """The form."""
    known = uploads.uploads(console_of(request).root)[:10]
    return page(
        request, "data/upload.html", title="Add images", section="/data", kinds=KINDS, limits=LIMITS, known=known
    )


@router.post("/data/upload")
async def send(request: Request) -> Response:
    """Take the files in, unpack them, and start the dry run."""
    person, root = need(request, "approver"), console_of(request).root
    folder = await run_in_threadpool(uploads.begin, root)
    try:
        sent, names = await receive(request, folder / "received", LIMITS)
    except BaseException:
        uploads.discard(root, folder.name)
        raise
    kind = sent.text("kind", "import", most=40)
    made = await run_in_threadpool(uploads.complete, folder, names, kind, person.name, LIMITS)
    _start(root, made, dry=True, by=person.name)
    return back(
        request, f"/data/upload/{made.id}", "The files are here. They are being looked at: nothing is taken yet."
    )


@router.get("/data/upload/{id_}")
def shown(request: Request, id_: str, format: str = "") -> Response:
    """What a dry run understood, and what became of the upload."""
    root = console_of(request).root
    made = _upload(request, id_)
    dry, taken = uploads.read_report(root, id_, "dry"), uploads.read_report(root, id_, "taken")
    if taken and not ((job := newest_job(root, _slot(id_, "take"))) and job.runs):
        uploads.discard(root, id_, images_only=True)
    report = (taken or dry or {}).get("report")
    if format == "mix":
        found = {"class": report["classes"], "split": report["splits"]} if report else {}
        rows = [(what, name, count) for what, counts in found.items() for name, count in counts.items()]
        return csv_download("new-images", ("what", "name", "images"), rows)
    if format == "csv":
        refused = report["quarantined"] if report else []
        return csv_download(
            "refused", ("file", "reason", "detail"), [(one["where"], one["reason"], one["detail"]) for one in refused]
        )
    return page(
        request,
        "data/uploaded.html",
        title="Add images",
        section="/data",
        made=made,
        kinds=KINDS,
        dry=dry,
        taken=taken,
        report=report,
        said=(taken or dry or {}).get("understood", []),
        look=_slot(id_, "look"),
        take=_slot(id_, "take"),
    )


@router.post("/data/upload/{id_}/take")
def take(request: Request, id_: str, form: Posted = Depends(posted)) -> Response:
    """Take the images into the data set."""
    person, root = need(request, "approver"), console_of(request).root
    made = _upload(request, id_)
    if uploads.read_report(root, id_, "dry") is None:
        raise EvergreenError("nothing is known of these files yet: wait until they have been looked at")
    if uploads.read_report(root, id_, "taken") is not None:
        return back(request, f"/data/upload/{id_}", "These images were taken before.", good=False)
    _start(root, made, dry=False, by=person.name)
    return back(request, f"/data/upload/{id_}", "The images are being taken into the data set.")


@router.post("/data/upload/{id_}/look")
def look(request: Request, id_: str, form: Posted = Depends(posted)) -> Response:
    """Look at the files again."""
    person, root = need(request, "approver"), console_of(request).root
    _start(root, _upload(request, id_), dry=True, by=person.name)
    return back(request, f"/data/upload/{id_}", "The files are being looked at.")


@router.post("/data/upload/{id_}/discard")
def discard(request: Request, id_: str, form: Posted = Depends(posted)) -> Response:
    """Delete the files: they were never in the data set."""
    need(request, "approver")
    _upload(request, id_)
    for what in ("look", "take"):
        job = newest_job(console_of(request).root, _slot(id_, what))
        if job and job.runs:
            raise EvergreenError("these files are being read: wait until that has ended")
    uploads.discard(console_of(request).root, id_)
    return back(request, "/data/upload", "The files are deleted. Nothing was taken.")


def _upload(request: Request, id_: str) -> uploads.Upload:
    if (made := uploads.read_upload(console_of(request).root, id_)) is None:
        raise HTTPException(404, "There is no such upload: it was discarded, or is older than a day.")
    return made


def _slot(id_: str, what: str) -> str:
    return f"{what} {id_}"


def _start(root, made: uploads.Upload, *, dry: bool, by: str) -> None:
    arguments = ["ingest", str(uploads.source_of(root, made)), *([] if made.kind == "import" else [f"--{made.kind}"])]
    report = uploads.report_file(root, made.id, "dry" if dry else "taken")
    arguments += ["--report", str(report), *(["--dry-run"] if dry else [])]
    title = "Looking at the files" if dry else "Taking the images"
    slot = _slot(made.id, "look" if dry else "take")
    start_job(root, arguments, slot=slot, title=title, by=by, back=f"/data/upload/{made.id}")
