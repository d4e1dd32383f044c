"""Optuna's PostgreSQL storage for a fleet: heartbeats, retries, and patience with a restart."""

import contextlib
import hashlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import sqlalchemy
from optuna.exceptions import (
    ExperimentalWarning,
    StorageInternalError,
)
from sqlalchemy.exc import (
    DBAPIError,
    SQLAlchemyError,
)

from tuning.patient_storage import PatientStorage, lacks_right
from tuning.rescue import close_measured, requeue_callback
from tuning.storage_url import parse_storage_url, shown_url

__all__ = ["FleetStorage"]

#: A worker tells so often that its trial lives; silent for so long, its trial goes to another.
HEARTBEAT_S, GRACE_S = 10, 60
#: A worker reads the whole queue twice a trial, so it is short; who finds it empty fills it.
QUEUE_AHEAD = 16
IDLE_S = 2.0
#: A server that restarts is waited for so long.
OUTAGE_S = 180.0
#: The first connection, where a wrong URL shows.
CONNECT_S = 10
#: Nobody holds a study for longer: choosing a configuration takes well under a second.
LOCK_S = 300
#: Of the server's side, so that the lock of a host that lost power is given back.
_KEEPALIVE = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"

#: Options of libpq that a message must not repeat.
_SECRET_OPTIONS = ("password", "passfile", "sslpassword", "sslkey", "oauth_client_secret")


class FleetStorage(PatientStorage):
    """A PostgreSQL storage that several hosts share; a context manager.

    Attributes:
        shown: the URL as messages and files may hold it.
        queue_ahead: configurations of an exhaustive study that wait in its queue.
        idle_s: how often a worker without work looks whether another one has died.

    Args:
        url: ``postgresql+psycopg://user:password@host:port/database``; its secrets are never shown.
        heartbeat_s, grace_s: see :class:`optuna.storages.RDBStorage`.
        outage_s: how long a server that stopped answering is waited for.
        read_only: change nothing: no tables are made, and a role that may only read will do.

    Raises:
        ValueError: psycopg is missing, the URL is wrong, nothing answers there, the role lacks a
            right, or the database was made by another version of optuna; read only, also that it
            holds no sweep.
    """

    def __init__(
        self,
        url: str,
        *,
        heartbeat_s: int = HEARTBEAT_S,
        grace_s: int = GRACE_S,
        outage_s: float = OUTAGE_S,
        read_only: bool = False,
    ) -> None:
        parsed = parse_storage_url(url)
        self.shown = shown_url(parsed)
        self.queue_ahead = QUEUE_AHEAD
        self.idle_s = min(IDLE_S, grace_s / 2)
        self._secrets = [s for s in (url, parsed.password, *_secret_options(parsed.query)) if s]
        self._outage_s = outage_s
        self._silent_since: dict[int, float] = {}
        self._locks: sqlalchemy.Connection | None = None
        options = {
            "pool_pre_ping": True,
            "connect_args": {
                "connect_timeout": CONNECT_S,
                "keepalives_idle": 30,
                "tcp_user_timeout": 60_000,
                **parsed.query,
                "options": " ".join(
                    (
                        _KEEPALIVE,
                        *(["-c default_transaction_read_only=on"] if read_only else []),
                        *_values(parsed.query.get("options", ())),
                    )
                ),
            },
        }
        plain = parsed.set(query={})
        whole = False
        try:
            with self._first_contact(plain, options, read_only), warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                super().__init__(
                    _unfilled(plain.render_as_string(hide_password=False)),
                    engine_kwargs=options,
                    heartbeat_interval=heartbeat_s,
                    grace_period=grace_s,
                    heartbeat_stale_trial_callback=requeue_callback(),
                    skip_table_creation=read_only,
                )
            whole = True
        except ImportError:
            raise ValueError("psycopg is missing: pip install 'tile-workbench[fleet]'") from None
        except RuntimeError as error:  # optuna: the tables are another version's
            raise ValueError(f"storage {self.shown}: {self._clean(error)}") from None
        except (StorageInternalError, SQLAlchemyError) as error:
            if lacks_right(error):
                raise self._refused(error) from None
            # ``from None``: a traceback would show what the driver was given.
            raise ValueError(
                f"storage {self.shown} does not answer: {self._clean(error)}: "
                "start the server or correct the URL"
            ) from None
        finally:
            if not whole and hasattr(self, "scoped_session"):
                self.__exit__(None, None, None)  # connections that were made before it failed

    @contextlib.contextmanager
    def _first_contact(
        self, url: sqlalchemy.URL, options: Mapping[str, Any], read_only: bool
    ) -> Iterator[None]:
        """Hold a lock while optuna makes its tables: two that make them at once collide."""
        engine = sqlalchemy.create_engine(
            url, poolclass=sqlalchemy.NullPool, connect_args=options["connect_args"]
        )
        with engine.connect() as connection:
            connection.execute(_LOCK, {"key": _key("tables")})
            if read_only and not sqlalchemy.inspect(connection).has_table("alembic_version"):
                raise ValueError(f"storage {self.shown} holds no sweep: name another database")
            yield

    @contextlib.contextmanager
    def choosing(self, study_name: str) -> Iterator[None]:
        """While a configuration is chosen and claimed, no other worker of the study chooses.

        The lock belongs to a connection: the server gives it back when the worker dies.
        """
        key = {"key": _key(study_name)}
        self._through_outages(lambda: self._lock(key, _LOCK))
        try:
            yield
        finally:
            self._unlock(key)

    @contextlib.contextmanager
    def comparing(self, study_name: str) -> Iterator[bool]:
        """True for one worker at a time, and for the next one when that one dies."""
        key = {"key": _key(f"{study_name}\0comparing")}
        mine = bool(self._through_outages(lambda: self._lock(key, _TRY_LOCK)))
        try:
            yield mine
        finally:
            if mine:
                self._unlock(key)

    def _lock(self, key: Mapping[str, int], how: sqlalchemy.TextClause) -> Any:
        try:
            if self._locks is None:
                self._locks = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                self._locks.execute(sqlalchemy.text(f"SET lock_timeout = '{LOCK_S}s'"))
            return self._locks.execute(how, key).scalar()
        except DBAPIError:
            self._drop_locks()
            raise

    def _unlock(self, key: Mapping[str, int]) -> None:
        try:
            if self._locks is not None:
                self._locks.execute(_UNLOCK, key)
        except DBAPIError:
            self._drop_locks()  # with the connection the lock is gone

    def _drop_locks(self) -> None:
        if self._locks is not None:
            with contextlib.suppress(SQLAlchemyError):
                self._locks.invalidate()
            with contextlib.suppress(SQLAlchemyError):
                self._locks.close()
        self._locks = None

    def flush(self, older_than_s: float = 0.0) -> None:
        """Nothing: every operation is committed when it returns."""

    def delete_study(self, study_id: int) -> None:
        """Never: a click in a dashboard must not cost measurements.

        Raises:
            ValueError: always.
        """
        raise ValueError("studies of a sweep are not deleted from here")

    def record_heartbeat(self, trial_id: int) -> None:
        """Tell that a trial lives; the thread that calls this must not die of an outage."""
        with contextlib.suppress(ValueError):  # the sweep's own thread reports it
            super().record_heartbeat(trial_id)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        return close_measured(self, self._through_outages(lambda: self._stale(study_id)))

    def _stale(self, study_id: int) -> list[int]:
        """Trials whose heartbeat stopped, or never began, for the grace period."""
        grace_s = float(self.grace_period or 0)
        with self.engine.connect() as connection:
            # While the server was down nobody could tell that it lives.
            up_s = float(connection.execute(_UPTIME).scalar_one())
            if up_s < grace_s:
                return []
            silent = set(connection.execute(_SILENT, {"study": study_id}).scalars())
        now = time.monotonic()
        self._silent_since = {
            trial_id: self._silent_since.get(trial_id, now) for trial_id in silent
        }
        # Killed between the trial's creation and its first heartbeat.
        stale = [t for t, since in self._silent_since.items() if now - since > grace_s]
        return stale + super()._get_stale_trial_ids(study_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._drop_locks()
        self.remove_session()
        self.engine.dispose()


_LOCK = sqlalchemy.text("SELECT pg_advisory_lock(:key)")
_TRY_LOCK = sqlalchemy.text("SELECT pg_try_advisory_lock(:key)")
_UNLOCK = sqlalchemy.text("SELECT pg_advisory_unlock(:key)")
_UPTIME = sqlalchemy.text("SELECT extract(epoch FROM now() - pg_postmaster_start_time())")
_SILENT = sqlalchemy.text(
    "SELECT trial_id FROM trials LEFT JOIN trial_heartbeats USING (trial_id) "
    "WHERE study_id = :study AND state = 'RUNNING' AND heartbeat IS NULL"
)


def _unfilled(url: str) -> str:
    """Braces doubled: optuna fills in ``{SCHEMA_VERSION}``."""
    return url.replace("{", "{{").replace("}", "}}")


def _key(name: str) -> int:
    """A lock's number; the namespace keeps it apart from other programs' locks."""
    digest = hashlib.sha256(f"tile-workbench\0{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _secret_options(query: Mapping[str, str | Sequence[str]]) -> list[str]:
    """The values of those of a URL's options that are secrets, or say where one lies."""
    return [v for name in _SECRET_OPTIONS for v in _values(query.get(name, ()))]


def _values(option: str | Sequence[str]) -> Sequence[str]:
    return [option] if isinstance(option, str) else option
