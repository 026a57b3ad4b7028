"""The server's password and database, from the environment."""

import pytest

from flows.server.process import auth_string, server_environment
from tasks.common.errors import EvergreenError
from tasks.common.params import ServeParams


def test_the_network_needs_a_password_and_a_database_comes_from_the_environment(monkeypatch):
    serve = ServeParams(host="0.0.0.0", password_env="TEST_PASSWORD", database_env="TEST_DATABASE")
    monkeypatch.delenv("TEST_PASSWORD", raising=False)
    with pytest.raises(EvergreenError, match="TEST_PASSWORD"):
        auth_string(serve)
    monkeypatch.setenv("TEST_PASSWORD", "hush")
    monkeypatch.setenv("TEST_DATABASE", "postgres://u:pw@db/prefect")
    assert server_environment(serve) == {
        "PREFECT_API_DATABASE_CONNECTION_URL": "postgresql+asyncpg://u:pw@db/prefect",
        "PREFECT_SERVER_API_AUTH_STRING": "evergreen:hush",
        "PREFECT_API_AUTH_STRING": "evergreen:hush",
    }
    monkeypatch.setenv("TEST_DATABASE", "mysql://u:pw@db/prefect")
    with pytest.raises(EvergreenError, match="TEST_DATABASE") as error:
        server_environment(serve)
    assert "pw" not in str(error.value)
    assert auth_string(ServeParams()) is None
