"""The shared storage itself, on a PostgreSQL server: locks, roles, what its messages show."""

import time
from typing import Any

import fleet_worker
import postgres
import pytest
import sqlalchemy
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import TrialState

from tuning.fleet import load_shared, run_shared
from tuning.fleet_storage import FleetStorage

pytestmark = postgres.MARKS

#: Seconds in which a server gives up what a closed connection held.
PATIENCE_S = 30.0


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
        # The connection is closed; the server gives its lock up as soon as it has seen that.
        deadline = time.monotonic() + PATIENCE_S
        theirs = False
        while not theirs and time.monotonic() < deadline:
            with second.comparing("a") as theirs:
                time.sleep(0.0 if theirs else 0.02)
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


@pytest.mark.parametrize("stored", [True, False])
def test_what_another_worker_failed_during_an_outage_is_not_taken_for_stored(
    server: postgres.Server, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    value = {"time_us": 1.5, "samples_us": (1.0, 2.0)}
    with FleetStorage(server.url) as storage, FleetStorage(server.url) as other:
        study = storage.create_new_study([StudyDirection.MINIMIZE], f"outage {stored}")
        trial = storage.create_new_trial(study)

        def meanwhile(_: float) -> None:
            if stored:
                other.set_trial_user_attr(trial, "measurement", value)
            state = TrialState.COMPLETE if stored else TrialState.FAIL
            other.set_trial_state_values(trial, state, [1.5] if stored else None)

        monkeypatch.setattr("tuning.patient_storage.time.sleep", meanwhile)
        break_next_statement(storage)
        if stored:
            storage.set_trial_user_attr(trial, "measurement", value)
        else:
            with pytest.raises(UpdateFinishedTrialError):
                storage.set_trial_user_attr(trial, "measurement", value)
        assert ("measurement" in storage.get_trial(trial).user_attrs) == stored


def break_next_statement(storage: FleetStorage) -> None:
    """The connection breaks at the next statement, once."""

    def broken(*_: object) -> None:
        sqlalchemy.event.remove(storage.engine, "before_cursor_execute", broken)
        raise sqlalchemy.exc.OperationalError("UPDATE", None, Exception("server closed it"))

    sqlalchemy.event.listen(storage.engine, "before_cursor_execute", broken)
