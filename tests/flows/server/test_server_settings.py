"""The server's secret, password and database, from the checkout and the environment."""

import sqlite3
from contextlib import closing

import pytest
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import make_url

from flows.server.environment import check_password, environment, server_environment
from tasks.common.checkout import Checkout
from tasks.common.errors import EvergreenError
from tasks.common.params import ServeParams

OWN, URL = Checkout("0123", "s3cret"), "http://127.0.0.1:4200/api"


def test_the_network_needs_a_password_and_a_database_comes_from_the_environment(monkeypatch):
    serve = ServeParams(host="0.0.0.0", hosts=["box"], password_env="TEST_PASSWORD", database_env="TEST_DATABASE")
    monkeypatch.delenv("TEST_PASSWORD", raising=False)
    with pytest.raises(EvergreenError, match="TEST_PASSWORD"):
        check_password(serve)
    with pytest.raises(EvergreenError, match="TEST_PASSWORD"):
        server_environment(serve, OWN, URL)
    assert "EVERGREEN_SERVER_PASSWORD" not in server_environment(serve, OWN, URL, people=True)
    monkeypatch.setenv("TEST_PASSWORD", "hush")
    monkeypatch.setenv("TEST_DATABASE", "postgres://u:pw@db/prefect")
    found = server_environment(serve, OWN, URL)
    assert found["PREFECT_API_DATABASE_CONNECTION_URL"] == "postgresql+asyncpg://u:pw@db/prefect"
    assert found["EVERGREEN_SERVER_PASSWORD"] == "hush"
    assert found["EVERGREEN_SERVER_NAMES"] == "box"
    monkeypatch.setenv("TEST_DATABASE", "mysql://u:pw@db/prefect")
    with pytest.raises(EvergreenError, match="TEST_DATABASE") as error:
        server_environment(serve, OWN, URL)
    assert "pw" not in str(error.value)
    check_password(ServeParams())


@pytest.mark.parametrize("password", [None, "hush"])
def test_every_server_has_the_checkouts_secret_and_names_its_origin(password, monkeypatch):
    monkeypatch.setenv("TEST_PASSWORD", password or "")
    found = server_environment(ServeParams(password_env="TEST_PASSWORD"), OWN, URL)
    assert found["PREFECT_SERVER_API_AUTH_STRING"] == found["PREFECT_API_AUTH_STRING"] == "evergreen:s3cret"
    assert found["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4200"


def test_children_start_no_server_of_their_own_and_need_no_proxy_for_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "example.org")
    monkeypatch.delenv("no_proxy", raising=False)
    found = environment(tmp_path)
    assert found["PREFECT_SERVER_EPHEMERAL_ENABLED"] == "false"
    assert found["NO_PROXY"] == found["no_proxy"] == "example.org,127.0.0.1,localhost,::1"


@pytest.mark.parametrize("name", ["a?b", "50%41?", "C# é='"])
def test_the_database_lies_in_the_project_whatever_its_folder_is_called(tmp_path, monkeypatch, name):
    monkeypatch.delenv("PREFECT_HOME", raising=False)
    root = tmp_path / name
    (root / ".evergreen/prefect").mkdir(parents=True)
    found = environment(root)
    url = found.get("PREFECT_API_DATABASE_CONNECTION_URL", f"sqlite+aiosqlite:///{found['PREFECT_HOME']}/prefect.db")
    (file,), options = SQLiteDialect_pysqlite().create_connect_args(make_url(url.replace("+aiosqlite", "")))
    with closing(sqlite3.connect(file, uri=options.get("uri", False))) as database:
        database.execute("create table t(a)")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (root / ".evergreen/prefect/prefect.db").is_file()
