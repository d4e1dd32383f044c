"""What several tests of tuning share."""

from collections.abc import Iterator

import postgres
import pytest


@pytest.fixture(scope="module")
def server() -> Iterator[postgres.Server]:
    """A PostgreSQL server of the test module's own."""
    pytest.importorskip("psycopg", reason="needs the extra fleet")
    with postgres.Server() as running:
        yield running
