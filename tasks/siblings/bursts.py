"""Bursts: images that one camera took within seconds, by their EXIF data."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from PIL import Image

from tasks.common.cells import is_encodable
from tasks.siblings.alike import measure_alikeness
from tasks.siblings.name_patterns import MIN_ALIKE, supported, worth_a_test

GAP = 5.0  # seconds; longer pauses end a burst
CAMERA, TIME, DETAILS, ORIGINAL = 0x0110, 0x0132, 0x8769, 0x9003  # EXIF tags


@dataclass(frozen=True)
class Bursts:
    """Bursts whose images are alike, and the evidence: see NamePattern."""

    rows: int
    siblings: int
    groups: int
    alike: float
    p_value: float

    def sentence(self) -> str:
        """The finding in one sentence."""
        return (
            f"{self.siblings} of {self.rows} images were taken within {GAP:g} seconds of another by the same camera "
            f"(EXIF): {self.groups} bursts, {100 * self.alike:.0f} % of sibling pairs more alike than a pair of "
            f"the same class (p = {self.p_value:.2g})"
        )


def propose_bursts(
    taken: Sequence[tuple[str, datetime] | None], labels: Sequence[str | None], features: np.ndarray
) -> Bursts | None:
    """The bursts of N images if images of one burst are alike. features (N, F): see tasks.siblings.name_patterns."""
    keys = burst_keys(taken)
    if not worth_a_test(keys):
        return None
    evidence = measure_alikeness(
        keys, np.array([label or "" for label in labels], dtype=object), features, least=MIN_ALIKE
    )
    if not supported(evidence):
        return None
    several = [count for key, count in Counter(keys.tolist()).items() if key and count > 1]
    return Bursts(len(keys), sum(several), len(several), evidence.share, evidence.p_value)


def camera_and_time(image: Image.Image) -> tuple[str, datetime] | None:
    """The camera's model ("" if unnamed) and the moment of an opened image; None without a readable time."""
    try:
        exif = image.getexif()
        details = exif.get_ifd(DETAILS)
        written = str(details.get(ORIGINAL) or exif.get(TIME) or "")
        moment = datetime.strptime(written.strip("\0 "), "%Y:%m:%d %H:%M:%S")
        camera = str(exif.get(CAMERA) or "").strip("\0 ")
    except Exception:  # EXIF is written by anything: whatever is wrong with it, there is no time
        return None
    return (camera if is_encodable(camera) else ""), moment


def burst_keys(taken: Sequence[tuple[str, datetime] | None], gap: float = GAP) -> np.ndarray:
    """The burst of each of N images, (N,) names; "" where camera and time are unknown.

    Images of one camera belong to one burst as long as each follows the one before within `gap` seconds.
    """
    keys = np.full(len(taken), "", dtype=object)
    known = sorted((one, row) for row, one in enumerate(taken) if one is not None)
    burst, before = 0, None
    for (camera, moment), row in known:
        if before is None or before[0] != camera or (moment - before[1]).total_seconds() > gap:
            burst += 1
        keys[row], before = f"burst {burst}", (camera, moment)
    return keys
