"""Which configuration a call runs with: read from ``configs/*.json``, chosen by one rule.

A file holds the tuned configurations of one kernel, one choice of formats and one set of fixed
extents (N and K of a product, the columns of a quantisation) on one GPU, by the free extent M (the
rows), or by several free extents (matrices, queries and length of attention's products).  A call
takes the entry whose free extents are nearest in log space, their distances added up; a tie goes
to the smaller M.  Where several kernels compute the same product, the entries of all of them stand
in one row.  Fixed extents that were never tuned take a conservative default under the same rule,
with one warning for each of them, kernel and choice of formats; on a GPU that the package was not
tuned for, every call takes a default that runs on any NVIDIA GPU of capability 8.0 and up, with one
warning.
Warnings point at
the line outside this package and torch that made the call.  Standard library only.
"""

import importlib
import json
import math
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

SCHEMA = "tile-workbench/configs/1"

Config = dict[str, "int | bool"]
#: The extents of which the nearest tuned ones are taken: M, or several.
Free = int | tuple[int, ...]


@dataclass(frozen=True)
class ConfigFile:
    """One file of ``configs/``."""

    kernel: str  #: kernel family, e.g. "triton_gemm"
    template: str  #: module under ``kernels`` that holds its ``launch``, e.g. "triton.gemm_scaled"
    gpu: str | None  #: GPU that the entries were searched for, e.g. "h200"; ``None``: any
    devices: tuple[str, ...]  #: what drivers call that GPU, as shell patterns
    formats: tuple[str, ...]  #: (recipe, output) of a product, (target, source) of a quantisation
    extents: tuple[int, ...] | None  #: (N, K) or (columns,); ``None``: defaults for any
    layout: Mapping[str, Any]  #: elements and scale blocks of the operands
    entries: tuple[tuple[Free, Config], ...]  #: (M, configuration), M ascending


@dataclass(frozen=True)
class Choice:
    """What a call launches."""

    file: ConfigFile
    m: Free  #: the M whose entry was taken
    config: Config

    @property
    def tuned(self) -> bool:
        """False when extents or GPU were never tuned and a default stands in."""
        return self.file.extents is not None


def parse_config_file(text: str) -> ConfigFile:
    """Read one file of ``configs/``.

    Raises:
        ValueError: not such a file.
    """
    data = json.loads(text)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ValueError(f"a configuration file carries the schema {SCHEMA!r}: emit again")
    if not re.fullmatch(r"(triton|cuda)\.[a-z_][a-z0-9_]*", data["template"]):
        raise ValueError(f"template {data['template']!r} is not a module of this package")
    entries = tuple((_free(entry["m"]), dict(entry["config"])) for entry in data["entries"])
    keys = [m for m, _ in entries]
    alike = len({(type(m), len(_points(m))) for m in keys}) == 1
    if not alike or keys != sorted(set(keys), key=_points):
        raise ValueError("a configuration file lists its entries by M, ascending and each once")
    return ConfigFile(
        kernel=data["kernel"],
        template=data["template"],
        gpu=data["gpu"],
        devices=tuple(data["devices"]),
        formats=tuple(data["formats"]),
        extents=None if data["extents"] is None else tuple(data["extents"]),
        layout={key: tuple(v) if isinstance(v, list) else v for key, v in data["layout"].items()},
        entries=entries,
    )


def _free(m: object) -> Free:
    return tuple(map(int, m)) if isinstance(m, list) else int(str(m))


def _points(m: Free) -> tuple[int, ...]:
    return m if isinstance(m, tuple) else (m,)


def nearest(m: Free, keys: Sequence[Free]) -> Free:
    """The key nearest to ``m`` in log space; a tie goes to the smaller.

    Args:
        m: at least 1; of several extents the distances are added up.
        keys: ascending, at least one, each at least 1.
    """
    best, most = keys[0], _ratio(m, keys[0])
    for key in keys[1:]:
        ratio = _ratio(m, key)
        # sum |log m - log key| < sum |log m - log best|, in integers: nothing is rounded.
        if ratio[0] * most[1] < most[0] * ratio[1]:
            best, most = key, ratio
    return best


def _ratio(m: Free, key: Free) -> tuple[int, int]:
    """Products of the larger extents and of the smaller ones."""
    pairs = list(zip(_points(m), _points(key), strict=True))
    return math.prod(max(pair) for pair in pairs), math.prod(min(pair) for pair in pairs)


def _read_all() -> tuple[ConfigFile, ...]:
    folder = Path(__file__).parent / "configs"
    return tuple(
        parse_config_file(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
    )


FILES = _read_all()

_templates: dict[str, ModuleType] = {}
_choices: dict[tuple[object, ...], Choice] = {}
_warned: set[tuple[object, ...]] = set()


def layouts(kernel: str) -> dict[tuple[str, ...], Mapping[str, Any]]:
    """Operand layouts by formats, of everything that ``kernel`` serves in this package."""
    return {
        file.formats: file.layout
        for file in FILES
        if file.kernel == kernel and file.gpu is not None
    }


def template(choice: Choice) -> ModuleType:
    """The module whose ``launch`` serves the choice."""
    name = choice.file.template
    module = _templates.get(name)
    if module is None:
        module = _templates[name] = importlib.import_module(f"{__package__}.kernels.{name}")
    return module


def choose(
    kernel: str,
    formats: tuple[str, ...],
    extents: tuple[int, ...],
    m: Free,
    device: str,
    others: tuple[str, ...] = (),
) -> Choice:
    """The configuration of a call.

    Args:
        kernel: kernel family.
        formats: (recipe, output) or (target, source).
        extents: (N, K) or (columns,).
        m: rows, at least 1; or all free extents.
        device: the driver's name of the GPU, or "cpu" under Triton's interpreter.
        others: families whose tuned entries count as well; defaults are those of ``kernel``.
    Raises:
        ValueError: the package holds no such kernel or formats.
    """
    key = (kernel, formats, extents, m, device, others)
    found = _choices.get(key)
    if found is None:
        found = _choices[key] = choose_from(FILES, kernel, formats, extents, m, device, others)
        if len(_choices) > 65536:  # M may vary without end in a long-lived server
            _choices.clear()
    return found


def choose_from(
    files: Sequence[ConfigFile],
    kernel: str,
    formats: tuple[str, ...],
    extents: tuple[int, ...],
    m: Free,
    device: str,
    others: tuple[str, ...] = (),
) -> Choice:
    """:func:`choose` among the given files, without a cache."""
    served = [file for file in files if (file.kernel, file.formats) == (kernel, formats)]
    if not served:
        known = sorted({" ".join(file.formats) for file in files if file.kernel == kernel})
        raise ValueError(
            f"this package has no {kernel} for {' '.join(formats)}: it has {', '.join(known)}"
        )
    home = next((file.gpu for file in served if file.gpu is not None), None)
    here = [file for file in served if _is_gpu(file, device)]
    if not here and device == "cpu":
        here = [file for file in served if file.gpu == home]
    if not here:
        _warn_once(
            strange_gpu_key(device),
            f"{device} is not a GPU this package was tuned for ({home}): "
            "running a conservative default, whose speed is unknown",
        )
        return _entry([file for file in served if file.gpu is None], m)
    gpus = {file.gpu for file in here}
    here += [f for f in files if f.kernel in others and f.formats == formats and f.gpu in gpus]
    tuned = [file for file in here if file.extents == extents]
    if not tuned:
        _warn_once(
            untuned_key(kernel, formats, extents),
            f"{kernel} {' '.join(formats)} was never tuned for extents {extents}: "
            "running a conservative default, whose speed is unknown",
        )
        tuned = [file for file in here if file.extents is None and file.kernel == kernel]
    return _entry(tuned, m)


def _entry(files: Sequence[ConfigFile], m: Free) -> Choice:
    """The entry that serves ``m``; of two for the same M the first file's."""
    if not files:
        raise ValueError("this package lacks the default for the call: install it again")
    by_m: dict[Free, tuple[ConfigFile, Config]] = {}
    for file in files:
        for key, config in file.entries:
            by_m.setdefault(key, (file, config))
    taken = nearest(m, sorted(by_m, key=_points))
    file, config = by_m[taken]
    return Choice(file=file, m=taken, config=config)


def _is_gpu(file: ConfigFile, device: str) -> bool:
    return any(device == name or fnmatchcase(device, name) for name in file.devices)


def stand_in(
    choice: Choice, kernel: str, m: Free, why: str, formats: tuple[str, ...] | None = None
) -> Choice:
    """The default of ``kernel`` that runs where a tuned configuration cannot.

    There is one warning for each reason, kernel, choice of formats and fixed extents.

    Defaults were made for odd extents, so they need no alignment.

    Args:
        choice: what was chosen.
        kernel: family of the default.
        m: rows of the call, or all its free extents.
        why: what is in the way; without it there is no warning.
        formats: those of the default, where it has others.
    """
    tuned = choice.file
    formats = tuned.formats if formats is None else formats
    if why:
        where = "" if tuned.extents is None else f" {'x'.join(map(str, tuned.extents))}"
        _warn_once(
            (why, tuned.kernel, tuned.formats, tuned.extents),
            f"{tuned.kernel} {' '.join(tuned.formats)}{where}: {why}: running a conservative "
            "default",
        )
    return _entry(
        [
            file
            for file in FILES
            if (file.kernel, file.formats, file.gpu) == (kernel, formats, tuned.gpu)
            and file.extents is None
        ],
        m,
    )


def untuned_key(
    kernel: str, formats: tuple[str, ...], extents: tuple[int, ...]
) -> tuple[object, ...]:
    """Under which it is noted that a warning of such extents was given."""
    return (kernel, formats, extents)


def strange_gpu_key(device: str) -> tuple[object, ...]:
    """The same of a GPU."""
    return ("gpu", device)


def _warn_once(key: tuple[object, ...], message: str) -> None:
    if key in _warned:
        return
    frame = _caller()
    if frame is None:
        warnings.warn(message, RuntimeWarning, stacklevel=2)
    else:
        warnings.warn_explicit(
            message,
            RuntimeWarning,
            frame.f_code.co_filename,
            frame.f_lineno,
            module=frame.f_globals.get("__name__"),
            registry=frame.f_globals.setdefault("__warningregistry__", {}),
        )
    # Where warnings are errors nothing has run yet, and the next call is told again.
    _warned.add(key)


def _caller() -> FrameType | None:
    """The innermost frame outside this package and torch, whose dispatcher lies between."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", "")) + "."
        if not module.startswith((f"{__package__}.", "torch.")):
            return frame
        frame = frame.f_back
    return None
