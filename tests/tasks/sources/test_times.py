"""Times that people write: read if they can mean one thing only, else asked for once and never a reason to refuse."""

from datetime import UTC, datetime

import pytest
import yaml

from flows.project.create import fit_params
from tasks.common.errors import ParamsError
from tasks.common.params import DataParams, parse_params
from tasks.sources.fields import Unusable
from tasks.sources.times import Times, fitting_formats
from tests.support.ingesting import image, manifest, noise, samples, take

NOON = datetime(2026, 5, 3, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "written",
    [
        *("2026/05/03 12:00", "2026.05.03 12:00:00", "20260503_120000", "2026-05-03_12-00-00", "2026-05-03 12-00-00"),
        *("20260503120000", 20260503120000, 202605031200, "2026-05-03 12:00:00 UTC", "\u200b2026-05-03\u00a012:00 "),
        *("Sun, 03 May 2026 14:00:00 +0200", 1777809600, 1777809600_000, 1777809600_000_000, 1777809600_000_000_000),
    ],
)
def test_what_can_mean_one_time_only_is_read(written):
    assert Times().read(written) == NOON


@pytest.mark.parametrize("written", ["03.05.2026", "05/03/2026 12:00", "3 May 2026", 2026, "2026", "12"])
def test_what_is_ambiguous_or_no_time_is_not_guessed(written):
    with pytest.raises(Unusable, match="bad_time"):
        Times().read(written)


@pytest.mark.parametrize(
    "written",
    ["1970-01-01T00:00:03", "1980-01-01", "2000-01-01 00:00:12", "2099-12-31", "1999-12-31T20:00:00-05:00", 0],
)
def test_a_clock_that_was_reset_says_no_time(written):
    with pytest.raises(Unusable, match=r"bad_time: .* is the time of a clock that was reset"):
        Times().read(written)
    assert Times().is_reset(written)


def test_a_reset_clock_is_said_before_and_costs_only_the_time(tmp_path):
    told = []
    report = take(tmp_path, source(tmp_path / "s", "1970-01-01T00:00:03", "2026-05-03T12:00Z"), say=told.append)
    assert (report.taken, report.untimed, report.quarantined) == (2, 1, ())
    (note,) = (line for line in told if line.startswith("note: 1 time is that of a clock that was reset"))
    assert "1970-01-01T00:00:03" in note
    assert "--time-format" not in note


def test_the_users_format_and_zone_are_used():
    assert Times("%d.%m.%Y %H:%M", "Europe/Berlin").read("03.05.2026 14:00") == NOON  # summer time
    assert Times("%d.%m.%Y", "Europe/Berlin").read("2026-05-03T14:00") == NOON  # other forms are read as well
    assert Times(None, "Europe/Berlin").read("2026-05-03T12:00:00Z") == NOON  # a zone of its own


def test_formats_are_proposed_by_what_fits_all_times():
    assert fitting_formats(["03.05.2026"]) == ["%d.%m.%Y", "%m.%d.%Y"]
    assert fitting_formats(["03.05.2026", "22.11.2026"]) == ["%d.%m.%Y"]
    assert fitting_formats(["5/3/2026 2:00 PM", "11/22/2026 9:00 AM"]) == ["%m/%d/%Y %I:%M %p"]
    assert fitting_formats(["yesterday"]) == []


def source(root, *times):
    return manifest(
        root,
        [{"path": image(root, f"{n}.png", noise(n)), "label": "ab"[n % 2], "date": t} for n, t in enumerate(times)],
    )


def test_an_unreadable_time_costs_the_time_and_not_the_image_and_is_said_before(tmp_path):
    told = []
    report = take(tmp_path, source(tmp_path / "s", "03.05.2026", "04.05.2026", "2026-05-03T12:00Z"), say=told.append)
    assert (report.taken, report.untimed, report.quarantined) == (3, 2, ())
    assert "2 without time (it cannot be read)" in report.sentence()
    (note,) = (line for line in told if line.startswith("note: 2 times cannot be read, e.g. '03.05.2026'"))
    assert "--time-format '%d.%m.%Y' or '%m.%d.%Y'" in note
    assert [row["taken_at"] for row in samples(tmp_path)] == [None, None, NOON]


def test_the_settings_say_how_a_source_writes_times(tmp_path):
    data = DataParams(time_format="%d.%m.%Y %H:%M", time_zone="Europe/Berlin")
    told = []
    report = take(tmp_path, source(tmp_path / "s", "03.05.2026 14:00"), data=data, say=told.append)
    assert (report.untimed, [row["taken_at"] for row in samples(tmp_path)]) == (0, [NOON])
    assert not any("cannot be read" in line for line in told)


def test_init_settles_the_format_where_only_one_fits(tmp_path):
    fitted = parse_params(yaml.safe_load(fit_params(source(tmp_path / "s", "03.05.2026", "22.11.2026"))))
    assert fitted.data.time_format == "%d.%m.%Y"
    assert parse_params(yaml.safe_load(fit_params(source(tmp_path / "t", "03.05.2026")))).data.time_format is None


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("time_format", "dd.mm.yyyy", "expected e.g. %d.%m.%Y"),
        ("time_format", "%H:%M", "does not name day, month and year"),
        ("time_format", "%Q", "is not a format of times"),
        ("time_zone", "Berlin", "did you mean Europe/Berlin"),
    ],
)
def test_mistakes_in_the_settings_are_said(key, value, words):
    with pytest.raises(ParamsError, match=words.replace(".", r"\.")):
        parse_params({"data": {key: value}})
