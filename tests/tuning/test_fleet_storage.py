"""The shared storage itself, on a PostgreSQL server: locks, roles, what its messages show."""

from collections.abc import Iterator

import postgres
import pytest

from tuning.fleet_storage import FleetStorage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(postgres.BINARIES is None, reason="PostgreSQL's server is not installed"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    pytest.importorskip("psycopg", reason="needs the extra fleet")
    with postgres.Server() as server:
        yield server


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
