"""`evergreen pause` and `resume`: who, why and until when, and what `status` says."""

from tests.support import released_project
from tests.support.released_project import evergreen


def test_a_pause_is_shown_in_status_until_somebody_resumes(tmp_path):
    root = released_project.copy(tmp_path)
    said = evergreen(root, "pause", "--until", "3d", "--why", "the line is rebuilt")
    assert "by Ann: the line is rebuilt; `evergreen resume` ends it" in said
    assert "paused:      paused until" in evergreen(root, "status")
    assert "resumed; it was paused until" in evergreen(root, "resume")
    assert "paused" not in evergreen(root, "status")
    assert "nothing was paused" in evergreen(root, "resume")
    assert "has passed" in evergreen(root, "pause", "--until", "2020-01-01", "--why", "x", code=1)
