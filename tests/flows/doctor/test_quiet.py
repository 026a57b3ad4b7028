"""Warnings are silent in between, and heard afterwards."""

import logging

from flows.doctor.quiet import without_warnings


def test_warnings_are_silent_in_between_and_heard_afterwards(caplog):
    log = logging.getLogger("evergreen.a")
    try:
        with without_warnings():
            log.warning("not heard")
            log.error("an error")
            raise ValueError
    except ValueError:
        log.warning("heard")
    assert [record.getMessage() for record in caplog.records] == ["an error", "heard"]
