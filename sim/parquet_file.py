"""Parquet files of ours: written whole or not at all, and read with their schema checked.

pyarrow is imported when a file is read or written, never by a prediction.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiles.regular_file import check_regular

if TYPE_CHECKING:
    from pyarrow import parquet

__all__ = ["MAX_FILE_BYTES", "opened", "readable", "write_parquet"]

#: Data sets of ours have some ten thousand rows of some forty columns.
MAX_FILE_BYTES = 2**28
#: Key of the file's own metadata that holds the schema.
_KEY = b"schema"


def write_parquet(
    path: Path, columns: dict[str, Any], schema: str, *, compression_level: int | None = None
) -> None:
    """Write Arrow arrays by name, under a temporary name that is then renamed.

    Args:
        schema: what the file says that it holds.
        compression_level: zstd's; None: its usual one.

    Raises:
        ValueError: the file cannot be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    content = pa.table(columns).replace_schema_metadata({_KEY: schema.encode()})
    temporary = path.with_name(path.name + ".tmp")
    check_regular(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(
            content,
            temporary,
            compression="zstd",
            compression_level=compression_level,
            write_page_checksum=True,
        )
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ValueError(
            f"{path}: cannot be written: {error.strerror or error}: free space or choose another "
            "output"
        ) from error


@contextlib.contextmanager
def opened(path: Path, schema: str) -> "Iterator[parquet.ParquetFile]":
    """A file whose size and schema were checked, and whose pages are when they are read.

    Raises:
        ValueError: no regular file, larger than data sets are, or of another schema.
        OSError, pyarrow.ArrowException: it is missing or damaged.
    """
    from pyarrow import parquet

    if path.exists() and not path.is_file():
        raise ValueError("not a regular file")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
    with parquet.ParquetFile(path, page_checksum_verification=True) as file:
        found = (file.schema_arrow.metadata or {}).get(_KEY, b"none").decode("utf-8", "replace")
        if found != schema:
            raise ValueError(f"its schema is {found[:80]!r}, this version reads {schema!r}")
        yield file


@contextlib.contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """One line about whatever is wrong with a file.

    Args:
        what: it is read as, ``a data set``.
    """
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError as error:
        raise ValueError(f"{path}: no such file: check the path") from error
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, OverflowError) as error:
        said = " ".join(str(error).split())[:240] or type(error).__name__
        raise ValueError(
            f"{path}: cannot be read as {what}: {said}: bring back a copy or export it anew"
        ) from error
