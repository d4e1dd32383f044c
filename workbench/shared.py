"""Studies by their name on the command line, and the verbs on sweeps that processes share."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuning import Progress, Run

__all__ = ["dashboard", "load_study", "stale_lines", "work"]


def load_study(study: str | Path, storage: str | None = None) -> "Run":
    """A sweep as it stands, read only.

    Args:
        study: a run folder or, with a storage, the name of a sweep (``NAME@GPU`` for one GPU's).
        storage: URL of a shared storage.

    Raises:
        ValueError: no such sweep, it is damaged, or the storage does not answer.
    """
    import tuning

    if storage is None:
        return tuning.load_run(Path(study))
    return tuning.load_shared(str(study), storage)


def stale_lines(run: "Run") -> list[str]:
    """A line for every study whose results rest on something that has changed since."""
    from tuning.staleness import stale_lines as lines_of

    return lines_of(run)


def work(
    study: str | Path,
    *,
    storage: str | None = None,
    retry_failures: bool = False,
    allow_stale: bool = False,
    progress: "Callable[[Progress], None] | None" = None,
    note: Callable[[str], None] = lambda line: None,
) -> "list[Run]":
    """Help with a sweep that another process began, until nothing is left that can run here.

    Args:
        study: a run folder of this host or, with a storage, the name of a sweep.
        storage: URL of a shared storage.
        retry_failures: launch also what is known to fail.
        allow_stale: work also where driver or versions are not those that are stored.
        progress: told of every trial.
        note: told which studies are left to other hosts, and why.

    Returns:
        The sweep as it stands, one run for each GPU that was worked on.

    Raises:
        ValueError: no such sweep, nothing of it can run here, or the storage does not answer.
    """
    from tuning.fleet import work as work_shared
    from tuning.fleet import work_in_folder
    from tuning.sweep import Again

    options: dict[str, Any] = {
        "retry_failures": retry_failures,
        "again": Again.ALLOW if allow_stale else Again.REFUSE,
    }
    tell = progress or (lambda _: None)
    if storage is None:
        return [work_in_folder(Path(study), tell, **options)]
    return work_shared(str(study), storage, tell, note, **options)


def dashboard(
    study: str | Path,
    *,
    storage: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve optuna-dashboard on a sweep until an interrupt; reads a run folder, never writes it.

    Args:
        ready: told the page's address once the port is taken.

    Raises:
        ValueError: optuna-dashboard is missing, no such sweep, or the port is in use.
    """
    try:
        from optuna_dashboard import wsgi
    except ImportError:
        raise ValueError(
            "optuna-dashboard is missing: pip install 'tile-workbench[fleet]'"
        ) from None
    if not host:  # the server would listen on every interface
        raise ValueError("host '': name an address to listen on, e.g. 127.0.0.1, or leave it out")
    import socketserver
    from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

    from tuning.followed_journal import open_followed

    class Quiet(WSGIRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nothing: a request a second is no news."""

    class Server(socketserver.ThreadingMixIn, WSGIServer):
        daemon_threads = True

    with open_followed(study, storage) as (opened, studies):
        try:
            server = make_server(host, port, wsgi(opened), Server, Quiet)
        except OSError as error:
            raise ValueError(
                f"{host}:{port}: {error.strerror or error}: choose another --host or --port"
            ) from error
        with server:
            # A run folder of one study opens on it.
            page = "/studies/0" if storage is None and studies == 1 else ""
            ready(f"http://{host}:{server.server_port}/dashboard{page}")
            server.serve_forever()
