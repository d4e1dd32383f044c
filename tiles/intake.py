"""What comes from outside: read up to a limit, shown on one line."""

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["MAX_YAML_BYTES", "check_text", "nearest", "read_bounded", "shown"]

#: Of a sweep file and of a GPU file; real ones have a few thousand.
MAX_YAML_BYTES = 2**20


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """Read a regular file of at most ``limit_bytes`` bytes.

    Raises:
        ValueError: no such file, not a regular file, not readable, or too large.
    """
    try:
        # Before it is opened: opening a pipe would wait for a writer.
        if path.exists() and not path.is_file():
            raise ValueError(f"{path}: not a regular file: give the path of a file")
        with path.open("rb") as stream:
            data = stream.read(limit_bytes + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason}): check the path") from error
    if len(data) > limit_bytes:
        raise ValueError(
            f"{path}: takes at most {limit_bytes} bytes, this file is larger: "
            "check that it is the file you meant"
        )
    return data


def shown(value: object, width: int = 60) -> str:
    """A value on one line, cut at ``width`` characters."""
    # Only a prefix of a long container or string is formatted: its repr may be huge.
    if isinstance(value, str | list | tuple):
        value = value[: width + 1]
    elif isinstance(value, dict):
        value = dict(list(value.items())[:8])
    elif isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= width else f"{text[: width - 3]}..."


def check_text(what: str, value: object) -> None:
    """Refuse what is no text before it is read as a name.

    Raises:
        TypeError: it is not; the message says what was to be named.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} is given by its name, a text, not as {shown(value)}")


def nearest(name: object, known: Iterable[str]) -> str:
    """``did you mean 'x'? `` when a known name is close, else the empty string.

    Case does not count; the shortest name that begins with the given one comes first.
    """
    wanted = str(name)[:100].lower()
    # Of two that differ in nothing but case the first one is offered.
    by_lower = dict(reversed([(text.lower(), text) for text in known]))
    close = sorted((text for text in reversed(by_lower) if text.startswith(wanted)), key=len)
    if not close or len(wanted) < 3:
        close = difflib.get_close_matches(wanted, by_lower, n=1)
    return f"did you mean {by_lower[close[0]]!r}? " if close else ""
