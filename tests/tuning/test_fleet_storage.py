"""The shared storage itself, on a PostgreSQL server: locks, roles, what its messages show."""

from typing import Any

import fleet_worker
import postgres
import pytest

from tuning.fleet import load_shared, run_shared
from tuning.fleet_storage import FleetStorage

pytestmark = postgres.MARKS


def test_one_worker_compares_and_the_next_when_it_is_gone(server: postgres.Server) -> None:
    with FleetStorage(server.url) as second:
        with FleetStorage(server.url) as first:
            with first.comparing("a") as mine, second.comparing("a") as theirs:
                assert (mine, theirs) == (True, False)
                with second.comparing("b") as other, second.choosing("a"):
                    assert other
            with second.comparing("a") as theirs:
                assert theirs
            gone = first.comparing("a")
            assert gone.__enter__()
        with second.comparing("a") as theirs:  # its connection is closed
            assert theirs


def tables(url: str) -> int:
    import psycopg

    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        row = connection.execute(
            "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def execute(server: postgres.Server, *statements: str) -> None:
    import psycopg

    with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def sweep(url: str, count: int = 2) -> Any:
    plan = fleet_worker.make_plan("seen", "model", simulate=True, max_measurements=count)
    return run_shared(plan, url, price=fleet_worker.price)


def test_reading_changes_nothing_and_needs_no_right_to_write(server: postgres.Server) -> None:
    execute(server, "CREATE DATABASE empty")
    empty = server.url.removesuffix("postgres") + "empty"
    with pytest.raises(ValueError, match="holds no sweep: name another database"):
        load_shared("seen", empty)
    assert tables(empty) == 0
    run = sweep(server.url)
    execute(
        server,
        "CREATE ROLE reader LOGIN PASSWORD 'reading-word'",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
        "CREATE ROLE nobody LOGIN PASSWORD 'nobodys-word'",
    )
    own = f"postgres:{postgres.PASSWORD}@"
    assert load_shared("seen", server.url.replace(own, "reader:reading-word@")) == run
    rights = r"refuses: permission denied .*: grant its role that right, or name another role"
    with pytest.raises(ValueError, match=rights):
        sweep(server.url.replace(own, "reader:reading-word@"), 3)
    with pytest.raises(ValueError, match=rights):
        load_shared("seen", server.url.replace(own, "nobody:nobodys-word@"))
    with pytest.raises(ValueError, match=rights):  # no tables, and no right to make them
        sweep(empty.replace(own, "nobody:nobodys-word@"))


def test_an_option_that_is_no_secret_is_shown(server: postgres.Server) -> None:
    with pytest.raises(ValueError, match=r"does not answer: .*SSL was required"):
        load_shared("seen", f"{server.url}?sslmode=require")
    sweep(f"{server.url}?options=-c%20search_path%3Dpublic")


def test_what_the_server_refuses_is_one_line(server: postgres.Server) -> None:
    with FleetStorage(server.url) as storage:
        with pytest.raises(
            ValueError, match=r"refuses: .*too long.*: correct what it names"
        ) as told:
            storage.create_new_study([], "x" * 600)
        assert "\n" not in str(told.value)
