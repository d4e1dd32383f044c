"""The tuned configurations of a run as files: one a kernel, choice of formats, extents and GPU."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tiles.kernels import Kernel, Limits, kernel
from tiles.problems import Problem
from workbench.emission.function import Free, Function
from workbench.emission.functions import function_of
from workbench.emission.winners import TunedEntry, config_file_name, families_of, template_folder

__all__ = ["config_files"]

SCHEMA = "tile-workbench/configs/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """What the configuration files of one kernel, choice of formats and GPU have in common."""

    family: Kernel
    problem: Problem  #: one that they serve
    entries: Sequence[TunedEntry]  #: tuned entries that they ship for

    @property
    def function(self) -> Function:
        found = function_of(self.family.name, self.problem)
        assert found is not None  # a stand-in has a function too
        return found

    @property
    def formats(self) -> tuple[str, ...]:
        return self.function.formats(self.problem)

    def defaults(self, limits: Limits) -> dict[Free, Any]:
        """Default configurations, by free extents, of what the GPU can run."""
        asked = self.function.defaults(self.family.name, self.problem)
        found = {
            m: self.family.default(one, limits).to_dict()
            for m, one in asked.items()
            if self.family.refusal(one, limits) is None
        }
        if not found:
            raise ValueError(
                f"{self.family.name} has no default for {self.problem} on {limits.gpu}: emit the "
                "run without this study"
            )
        return found

    def text(
        self, extents: Sequence[int] | None, configs: dict[Free, Any], *, any_gpu: bool = False
    ) -> str:
        """The content of a file."""
        first = self.entries[0]
        layout = self.function.layout(
            self.family.name, self.problem, first.gpu.limits, any_gpu=any_gpu
        )
        data = {
            "schema": SCHEMA,
            "kernel": self.family.name,
            "template": f"{template_folder(self.family)}.{self.family.template.stem}",
            "gpu": None if any_gpu else first.study.gpu,
            "devices": [] if any_gpu else _devices(self.entries),
            "formats": list(self.formats),
            "extents": None if extents is None else list(extents),
            "layout": layout,
            "entries": [{"m": m, "config": configs[m]} for m in sorted(configs, key=_points)],
        }
        return json.dumps(data, indent=1, allow_nan=False) + "\n"


def _points(m: Free) -> tuple[int, ...]:
    return m if isinstance(m, tuple) else (m,)


def _devices(entries: Iterable[TunedEntry]) -> list[str]:
    """Names of the GPU as drivers report them: patterns of its file, and where it was measured."""
    names: set[str] = set()
    for entry in entries:
        names.update(entry.gpu.device_names)
        if not entry.study.simulated and entry.study.environment is not None:
            names.add(entry.study.environment.gpu)
    return sorted(names)


def config_files(entries: Sequence[TunedEntry]) -> dict[str, str]:
    """Every file of ``configs/`` by name, of entries that :func:`fastest` has kept."""
    files: dict[str, str] = {}
    shapes: dict[str, list[TunedEntry]] = {}
    shared: dict[tuple[str, tuple[str, ...], str], list[tuple[TunedEntry, Problem]]] = {}
    for entry in entries:
        shapes.setdefault(entry.file_name, []).append(entry)
        for name, problem in families_of(entry).items():
            function = function_of(name, problem)
            assert function is not None
            key = (name, function.formats(problem), entry.study.gpu)
            shared.setdefault(key, []).append((entry, problem))
    for name, same in shapes.items():
        first = same[0]
        table = _Table(family=first.kernel, problem=first.problem, entries=same)
        configs = {entry.m: entry.best.config.to_dict() for entry in same}
        if len(configs) < len(same):
            raise ValueError(
                f"{first.problem} and another study of this run are looked up by the same extents: "
                "emit one of them"
            )
        files[name] = table.text(first.extents, configs)
    for (family, formats, gpu), pairs in shared.items():
        table = _Table(
            family=kernel(family), problem=pairs[0][1], entries=[entry for entry, _ in pairs]
        )
        here = table.defaults(pairs[0][0].gpu.limits)
        files[config_file_name(family, formats, None, gpu)] = table.text(None, here)
        anywhere = table.defaults(table.function.any_gpu(family))
        files[config_file_name(family, formats, None, None)] = table.text(
            None, anywhere, any_gpu=True
        )
    return files
