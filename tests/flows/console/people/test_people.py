"""People of a project: added by a link that works once, and gone the moment they are revoked."""

import json
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.console.people import passphrase, session, store
from flows.server.environment import has_people
from tasks.common.checkout import checkout, renew_secret
from tasks.common.errors import EvergreenError, NewerFormat
from tasks.common.throttle import Throttle
from tasks.common.tickets import make_ticket, take_ticket

WORDS = "four words that rhyme"


def joined(root: Path, name: str = "Anna", role: str = "approver") -> str:
    token = store.add(root, name, role, "Bea")
    assert store.join(root, token, WORDS, WORDS) == name
    return token


def test_a_link_works_once_and_only_the_result_of_scrypt_is_kept(tmp_path):
    token = store.add(tmp_path, "Anna", "labeller", "Bea")
    assert store.invited(tmp_path, token) == "Anna"
    assert store.invited(tmp_path, token[:-1]) is None
    with pytest.raises(EvergreenError, match="two passphrases differ"):
        store.join(tmp_path, token, WORDS, "other words")
    assert store.join(tmp_path, token, WORDS, WORDS) == "Anna"
    assert store.join(tmp_path, token, WORDS, WORDS) is None, "it was used"
    file = tmp_path / ".evergreen/people.json"
    text = file.read_text()
    assert token not in text
    assert WORDS not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    known = store.read_people(tmp_path).active("Anna")
    assert passphrase.matches(WORDS, known.passphrase)
    assert not passphrase.matches(WORDS.title(), known.passphrase)
    assert not passphrase.matches(WORDS, None)
    assert (known.role, known.by) == ("labeller", "Bea")
    assert [change.what for change in store.read_people(tmp_path).history] == [
        "added Anna as labeller",
        "chose a passphrase",
    ]


@pytest.mark.parametrize(
    "bad", ["short", "x" * 201, "aaaaaaaaaaaaaaaa", "annaannaanna"], ids=["short", "long", "one letter", "the name"]
)
def test_a_passphrase_that_is_easy_to_guess_is_refused_and_the_link_still_works(bad, tmp_path):
    token = store.add(tmp_path, "Anna", "viewer", "Bea")
    with pytest.raises(EvergreenError, match="passphrase"):
        store.join(tmp_path, token, bad, bad)
    assert store.invited(tmp_path, token) == "Anna"


def test_an_old_link_and_one_that_was_replaced_do_not_work(tmp_path):
    first = store.add(tmp_path, "Anna", "viewer", "Bea")
    second = store.new_link(tmp_path, "Anna", "Bea")
    assert [store.invited(tmp_path, token) for token in (first, second)] == [None, "Anna"]
    file = tmp_path / ".evergreen/people.json"
    about = json.loads(file.read_text())
    about["people"]["Anna"]["link"]["until"] = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    file.write_text(json.dumps(about))
    assert store.invited(tmp_path, second) is None


def test_names_are_told_apart_and_roles_are_known(tmp_path):
    store.add(tmp_path, "Anna", "viewer", "Bea")
    for name, role in (("Anna", "viewer"), ("ANNA", "viewer"), ("", "viewer"), ("a\nb", "viewer"), ("Carl", "boss")):
        with pytest.raises(EvergreenError):
            store.add(tmp_path, name, role, "Bea")
    with pytest.raises(EvergreenError, match="no person 'Carl' here; known: Anna"):
        store.set_role(tmp_path, "Carl", "admin", "Bea")
    store.set_role(tmp_path, "Anna", "admin", "Bea")
    assert store.read_people(tmp_path).active("Anna").role == "admin"


def test_a_revoked_person_can_be_added_again_with_another_passphrase(tmp_path):
    joined(tmp_path)
    before = store.read_people(tmp_path).active("Anna")
    assert has_people(tmp_path), "beyond loopback that is enough"
    store.revoke(tmp_path, "Anna", "Bea")
    people = store.read_people(tmp_path)
    assert (people.active("Anna"), people.anyone(), has_people(tmp_path)) == (None, False, False)
    assert people.people["Anna"].passphrase is None
    store.add(tmp_path, "Anna", "viewer", "Bea")
    again = store.read_people(tmp_path).active("Anna")
    assert again.session != before.session
    assert again.passphrase is None


def test_a_damaged_or_newer_list_of_people_lets_nobody_in(tmp_path):
    joined(tmp_path)
    file = tmp_path / ".evergreen/people.json"
    text = file.read_text()
    for bad in ("", "[]", text[:100], text.replace("approver", "boss")):
        file.write_text(bad)
        with pytest.raises(EvergreenError, match="is damaged"):
            store.read_people(tmp_path)
        with pytest.raises(EvergreenError, match="is damaged"):
            store.add(tmp_path, "Carl", "viewer", "Bea")
        assert file.read_text() == bad, "nothing is written over it"
    file.write_text(text.replace('"schema": 1', '"schema": 99'))
    with pytest.raises(NewerFormat):
        store.read_people(tmp_path)


def test_a_cookie_counts_in_its_checkout_until_it_ends(tmp_path, monkeypatch):
    own = checkout(tmp_path)
    cookie = session.new_cookie(own, session.PERSON, "Anna", "mark")
    found = session.session_of(tmp_path, own, cookie)
    assert (found.kind, found.name, found.mark) == ("person", "Anna", "mark")
    (tmp_path / "copy").mkdir()
    other = checkout(tmp_path / "copy")
    assert session.session_of(tmp_path, other, cookie) is None, "another checkout has another key"
    head, _, rest = cookie.partition(".")
    forged = session.new_cookie(own, session.OWNER, "Anna").partition(".")[0]
    for bad in ("", cookie[:-1], f"{head}x.{rest}", f"{forged}.{rest}", f"{cookie}.", "e30.x.y"):
        assert session.session_of(tmp_path, own, bad) is None
    monkeypatch.setattr(session, "DAYS", -1)
    assert session.session_of(tmp_path, own, cookie) is None, "too old"
    monkeypatch.undo()
    session.end_session(tmp_path, found)
    assert session.session_of(tmp_path, own, cookie) is None, "signed out, for a stolen copy, too"
    fresh = session.new_cookie(own, session.PERSON, "Anna", "mark")
    assert session.session_of(tmp_path, own, fresh)
    assert session.session_of(tmp_path, renew_secret(tmp_path), fresh) is None, "`evergreen down` ends all"


def test_a_ticket_opens_one_server_once_and_for_minutes(tmp_path, monkeypatch):
    assert not take_ticket(tmp_path, "console", "guessed")
    ticket = make_ticket(tmp_path, "console")
    file = tmp_path / ".evergreen/tickets.json"
    assert ticket not in file.read_text()
    assert checkout(tmp_path).secret not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert take_ticket(tmp_path, "console", ticket)
    assert not take_ticket(tmp_path, "console", ticket)
    assert not take_ticket(tmp_path, "prefect", make_ticket(tmp_path, "console")), "it opens another server"
    late = make_ticket(tmp_path, "console")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 601)
    assert not take_ticket(tmp_path, "console", late)
    monkeypatch.undo()
    kept = make_ticket(tmp_path, "console")
    renew_secret(tmp_path)
    assert not take_ticket(tmp_path, "console", kept), "`evergreen down` ends it"


def test_after_five_failures_nothing_is_compared_for_a_minute(monkeypatch):
    throttle, now = Throttle(), time.monotonic()
    assert [throttle.begin("anna", "10.0.0.1") for _ in range(6)][:5] == [0] * 5
    assert 59 <= throttle.begin("anna", "10.0.0.2") <= 61, "of that name, from wherever"
    assert throttle.begin("bea", "10.0.0.1"), "and from that address, for any name"
    assert throttle.begin("bea", "10.0.0.2") == 0
    monkeypatch.setattr(time, "monotonic", lambda: now + 62)
    for _ in range(20):
        assert throttle.begin("anna", "10.0.0.1") == 0
        throttle.succeeded("anna", "10.0.0.1")
