"""Words and page of a comparison of two models' answers to the same images."""

from collections.abc import Mapping
from typing import Any

from monitoring.pages.render import name, percent, render


def replay_page(about: Mapping[str, Any]) -> str:
    """The page of one replay: the fields of flows.production.replay.Replay."""
    sides = [("was", about["found"]["old"]), ("is", about["found"]["new"])]
    return render("replay.html", about=about, found=about["found"], lines=lines(about), sides=sides, said=said)


def lines(about: Mapping[str, Any]) -> list[str]:
    """Sentences about one replay, the most important first."""
    found = about["found"]
    times = f"from {about['since']:%Y-%m-%d %H:%M} to {about['until']:%Y-%m-%d %H:%M} UTC"
    said_by = ", ".join(f"{version} {count}" for version, count in sorted(about["versions"].items()))
    told = [f"{about['model']} answered traffic {times} again, against {about['against']} ({said_by})"]
    if not found["images"]:
        return [*told, "no image could be answered again", *_left_out(about)]
    share = found["agree"] / found["images"]
    told.append(
        f"same answer: {percent(share)} of {found['images']} images "
        f"({percent(found['low'])} to {percent(found['high'])}); {about['answers']} images in that time"
    )
    old, new = found["old"], found["new"]
    told.append(
        f"median confidence {_figure(old['confidence'])} -> {_figure(new['confidence'])}, worth a review "
        f"{percent(old['needs_review'])} -> {percent(new['needs_review'])}"
    )
    if new["latency_ms"] is not None:
        told.append(f"{new['latency_ms']:.1f} ms an image on this machine{_latency(about)}")
    if (right := found["right"]) is None:
        told.append("no image of that time has a true label: which model is right more often is not known")
    else:
        told.append(
            f"right: {percent(right['old'])} -> {percent(right['new'])} of {right['images']} labelled images, "
            f"{100 * right['low']:+.1f} .. {100 * right['high']:+.1f} points; {right['gained']} won, "
            f"{right['lost']} lost (better by chance p = {right['p_better']:.3g}, worse p = {right['p_worse']:.3g})"
        )
    return [*told, *_left_out(about)]


def said(label: str | list[str] | None) -> str:
    """An answer as text; a multi-label answer may be empty."""
    if isinstance(label, list):
        return name(" + ".join(label)) or "(none)"
    return "unreadable" if label is None else name(label)


def _latency(about: Mapping[str, Any]) -> str:
    old = about["found"]["old"]["latency_ms"]
    if old is None:
        return ""
    if "given" in about["against"]:
        return f" (the requests had taken {old:.1f} ms, waiting included)"
    return f" ({about['against']}: {old:.1f} ms)"


def _left_out(about: Mapping[str, Any]) -> list[str]:
    told = []
    if about["without_image"]:
        told.append(f"{about['without_image']} images are not in the log (capture.images: thumbnail, or removed)")
    if about["picked"]:
        told.append(
            f"{about['picked']} labels left out: people were asked because the model that answered was unsure, so "
            "they would count against it alone"
        )
    if about["unreadable_files"]:
        told.append(f"{len(about['unreadable_files'])} files of the log cannot be read: `evergreen verify`")
    return told


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
