"""Who acts: the console's person, the environment's, git's, the login's."""

import getpass

from tasks.common.person import acting_as, person
from tests.support.checkout import git


def test_the_console_comes_before_the_environment_and_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    git(tmp_path, "init", "-q")
    assert person(tmp_path) == getpass.getuser()
    git(tmp_path, "config", "user.name", "Ann of git")
    assert person(tmp_path) == "Ann of git"
    monkeypatch.setenv("EVERGREEN_PERSON", "Bob's job")
    assert person(tmp_path) == "Bob's job"
    with acting_as("Cleo"):
        assert person(tmp_path) == "Cleo"
    assert person(tmp_path) == "Bob's job"
    assert person(tmp_path / "no such folder") == "Bob's job"
    monkeypatch.delenv("EVERGREEN_PERSON")
    assert person(tmp_path / "no such folder") == getpass.getuser()
