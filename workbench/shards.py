"""Which files a checkpoint consists of."""

import json
from pathlib import Path

from tiles.intake import read_bounded
from workbench.checkpoint_header import MAX_HEADER_BYTES, SUFFIX
from workbench.outfile import check_name

__all__ = ["shards"]

MAX_SHARDS = 4096


def shards(path: Path) -> list[Path]:
    """The files of a checkpoint: one, those of a folder, or those that an index names.

    Raises:
        ValueError: none there, too many, or an index that names no files beside it.
    """
    try:
        if path.is_dir():
            indices = sorted(path.glob(f"*{SUFFIX}.index.json"))
            files = sorted(path.glob(f"*{SUFFIX}"))
            if len(indices) == 1:
                return _indexed(indices[0])
            if not files:
                raise ValueError(f"{path}: holds no {SUFFIX} file: give the folder that does")
            if len(files) > MAX_SHARDS:
                raise ValueError(f"{path}: holds {len(files)} {SUFFIX} files: give one of them")
            return files
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ValueError(f"{path}: cannot be read ({reason}): check the path") from error
    return _indexed(path) if path.name.endswith(".json") else [path]


def _indexed(path: Path) -> list[Path]:
    """The files that ``model.safetensors.index.json`` names, which lie beside it."""
    rule = f'an index holds {{"weight_map": {{tensor: file}}}}, files beside it and in {SUFFIX}'
    try:
        index = json.loads(read_bounded(path, MAX_HEADER_BYTES))
        names = sorted(set(index["weight_map"].values()))
        good = all(name.endswith(SUFFIX) and Path(name).name == name for name in names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: {rule}: correct it") from error
    if not good or not 1 <= len(names) <= MAX_SHARDS:
        raise ValueError(f"{path}: {rule}: correct it")
    files = [path.parent / name for name in names]
    for file in files:
        check_name(file)
        if not file.exists():
            raise ValueError(f"{file}: named in {path.name}, and missing: fetch it")
    return files
