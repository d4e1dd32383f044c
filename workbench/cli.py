"""The command line: parses and prints; every verb is a function of ``workbench``."""

import errno
import os
import signal
import sys

import typer

from tiles.intake import shown
from workbench.calibrate_verb import add_calibrate_verb
from workbench.catalogue_verbs import add_catalogue_verbs
from workbench.convert_verb import add_convert_verb
from workbench.emit_verb import add_emit_verb
from workbench.error_verb import add_error_verb
from workbench.evaluate_verb import add_evaluate_verb
from workbench.fleet_verbs import add_fleet_verbs
from workbench.lint_verb import add_lint_verb
from workbench.predict_verb import add_predict_verb
from workbench.promote_verb import add_promote_verb
from workbench.quantize_verb import add_quantize_verb
from workbench.report_verb import add_report_verb
from workbench.study_verbs import add_study_verbs
from workbench.sweep_verbs import add_sweep_verbs
from workbench.verify_verb import add_verify_verb

__all__ = ["app", "main"]

app = typer.Typer(
    name="workbench",
    help="Predict, search, emit and verify low-precision GPU kernels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

#: The base of every mistake in how a command was called (unknown option, bad value); typer shows
#: only its subclass for bad values.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

#: Exit code of a caller's mistake, of output cut off by its reader, of Ctrl-C and of SIGTERM.
EXIT_MISTAKE, EXIT_CUT_OFF, EXIT_INTERRUPTED, EXIT_TERMINATED = 2, 1, 130, 143

#: Verbs that go on where they were stopped.
RESUMED = ("sweep", "worker", "calibrate", "promote")

add_predict_verb(app)
add_error_verb(app)
add_catalogue_verbs(app)
add_sweep_verbs(app)
add_verify_verb(app)
add_report_verb(app)
add_emit_verb(app)
add_study_verbs(app)
add_calibrate_verb(app)
add_evaluate_verb(app)
add_quantize_verb(app)
add_fleet_verbs(app)
add_convert_verb(app)
add_lint_verb(app)
add_promote_verb(app)


class _Terminated(BaseException):
    """SIGTERM arrived; unwinding ends the measuring process, which may hang in a kernel."""


def _terminate(*_: object) -> None:
    raise _Terminated


def main() -> None:
    """Entry point: a caller's mistake is one line on stderr and exit code 2."""
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        code = app(prog_name="workbench", standalone_mode=False)
        if code == EXIT_INTERRUPTED:  # typer's answer to a KeyboardInterrupt
            raise typer.Abort
        if sys.stdout is not None:
            sys.stdout.flush()  # here a full disk is still reported; at exit it is ignored
    except _UsageError as error:
        message = getattr(error, "format_message", error.__str__)()
        if not message:  # called without a verb: the help was printed
            sys.exit(EXIT_MISTAKE)
        context = getattr(error, "ctx", None)
        command = "workbench" if context is None else context.command_path
        _mistake(f"{message.rstrip('.')} (see {command} --help)", error)
    except typer.Abort:
        print(f"interrupted; {_after_a_stop()}", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except _Terminated:
        print(f"terminated; {_after_a_stop()}", file=sys.stderr)
        sys.exit(EXIT_TERMINATED)
    except OSError as error:
        _system_error(error)
    except UnicodeEncodeError as error:
        _mistake(
            f"{shown(error.object)}: this locale has no such characters ({error.encoding}): choose "
            "another name, or a UTF-8 locale",
            error,
        )
    except ValueError as error:
        _mistake(str(error), error)
    finally:
        signal.signal(signal.SIGTERM, before)
    sys.exit(code or 0)


def _after_a_stop() -> str:
    """What a command that was stopped leaves behind: sweeps are recorded trial by trial."""
    verb = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
    if verb in RESUMED:
        return "nothing is lost, the same command goes on"
    return "the same command begins anew"


def _system_error(error: OSError) -> None:
    """What the operating system refused: a path, or the output that this process writes to."""
    reason = error.strerror or type(error).__name__
    if error.filename is not None:
        _mistake(f"{error.filename}: {reason}: check the path", error)
    # What the buffer still holds would fail once more, with a traceback, when Python ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:
        sys.exit(EXIT_CUT_OFF)  # the reader, e.g. head, has seen enough
    _mistake(f"output cannot be written: {reason}: free space or write elsewhere", error)


def _mistake(message: str, error: Exception) -> None:
    """Print one line; developers see the traceback with WORKBENCH_TRACEBACK=1."""
    if os.environ.get("WORKBENCH_TRACEBACK"):
        raise error
    print("error: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(EXIT_MISTAKE)
