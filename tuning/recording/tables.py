"""Passes as measured tables, and the noise that their repeats show."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sim.measured import MeasuredTable
from tiles.kernels import ConfigTable, TileConfig
from tuning.recording.design import Design, RecordedStudy
from tuning.recording.passes import Head, Pass, read_passes

__all__ = ["Noise", "RecordedSet", "config_of", "recorded_sets"]

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How far repeats of one configuration lie apart, as shares of their mean."""

    pairs: int
    median: float
    p90: float
    beyond_2_percent: float  #: share of the configurations whose repeats differ by more


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedSet:
    """One data set: its tables, and what its card says of them."""

    part: str
    tables: tuple[MeasuredTable, ...]
    noise: Noise | None  #: None where nothing was measured twice
    failed: Mapping[str, int]  #: configurations without a time, by status
    begun: tuple[str, ...]  #: when the calls began, UTC
    sampling_ms: tuple[float, ...]
    planned: int  #: configurations that the design has of it


def config_of(study: RecordedStudy, one: Pass) -> TileConfig:
    """What a pass measured, as the family's configurations are today.

    Raises:
        ValueError: its fields are not among the family's any more.
    """
    try:
        return type(study.configs[0]).from_dict(one.config)
    except ValueError as error:
        raise ValueError(
            f"{one.study}: a pass of source {one.source[:12]} cannot be read: {error}: "
            "move its file of passes away"
        ) from error


def recorded_sets(folder: Path, design: Design) -> list[RecordedSet]:
    """Everything measured so far, whatever part of the design that is.

    Rows of a study that were taken under other versions or from other source stand in tables of
    their own.  A simulated recording names a GPU that there is not, so that nothing takes its times
    for measured ones.

    Raises:
        ValueError: a file of passes is damaged.
    """
    groups: dict[tuple[str, str, str], list[tuple[Head, Pass]]] = defaultdict(list)
    heads: dict[str, list[Head]] = defaultdict(list)
    for head, passes in read_passes(folder):
        for one in passes:
            study = design.by_key.get(one.study)
            if study is None:
                continue  # of an earlier design
            groups[one.study, one.source, _where(head)].append((head, one))
            if head not in heads[study.part]:
                heads[study.part].append(head)
    order = {key: place for place, key in enumerate(design.by_key)}
    found: dict[str, list[_Table]] = defaultdict(list)
    for (key, source, _), taken in sorted(groups.items(), key=lambda item: order[item[0][0]]):
        study = design.by_key[key]
        found[study.part].append(_Table(study, source, taken))
    return [
        RecordedSet(
            part=part,
            tables=tuple(one.table for one in tables if one.table is not None),
            noise=_noise(np.concatenate([one.apart for one in tables])),
            failed=Counter(status for one in tables for status in one.failed),
            begun=tuple(sorted({head.begun for head in heads[part]})),
            sampling_ms=tuple(sorted({head.sampling_ms for head in heads[part]})),
            planned=sum(len(one.configs) for one in design.studies if one.part == part),
        )
        for part, tables in found.items()
    ]


def _where(head: Head) -> str:
    return f"{head.environment} {head.sampling_ms} {head.simulated}"


class _Table:
    """The passes of one study from one source under one environment."""

    def __init__(self, study: RecordedStudy, source: str, taken: list[tuple[Head, Pass]]) -> None:
        head = taken[0][0]
        by_config: dict[TileConfig, list[Pass]] = defaultdict(list)
        for _, one in taken:
            by_config[config_of(study, one)].append(one)
        correct = {
            config: [one for one in by_config[config] if one.measurement.time_us is not None]
            for config in sorted(by_config, key=lambda one: tuple(one.to_dict().values()))
        }
        rows = [(config, passes) for config, passes in correct.items() if passes]
        self.failed = [
            by_config[config][0].measurement.status.value
            for config, passes in correct.items()
            if not passes
        ]
        self.apart: F64 = np.array([_apart(passes) for _, passes in rows if len(passes) > 1])
        self.table: MeasuredTable | None = None
        if not rows:
            return
        samples = [[s for one in passes for s in one.measurement.samples_us] for _, passes in rows]
        clocks, powers = _sensor(rows, "sm_clock_mhz"), _sensor(rows, "power_w")
        self.table = MeasuredTable(
            problem=study.plan.problem,
            kernel=study.kernel,
            gpu=f"simulated-{head.gpu}" if head.simulated else head.gpu,
            table=ConfigTable.of([config for config, _ in rows]),
            time_us=np.array([statistics.median(one) for one in samples]),
            iqr_us=np.array([np.subtract(*np.percentile(one, [75, 25])) for one in samples]),
            whole_space=len(by_config) == study.legal_size,
            facts={
                row: passes[0].measurement.facts
                for row, (_, passes) in enumerate(rows)
                if passes[0].measurement.facts is not None
            },
            cold=study.cache == "cold",
            source=source,
            environment={
                "device": head.environment.gpu,
                "driver": head.environment.driver,
                **head.environment.versions,
                "sampling_ms": f"{head.sampling_ms:g}",
            },
            clock_mhz=None if np.isnan(clocks).all() else clocks,
            power_w=None if np.isnan(powers).all() else powers,
        )


def _sensor(rows: list[tuple[TileConfig, list[Pass]]], name: str) -> F64:
    found = []
    for _, passes in rows:
        readings = [
            value
            for one in passes
            if one.measurement.conditions is not None
            for value in getattr(one.measurement.conditions, name)
        ]
        found.append(float(statistics.median(readings)) if readings else np.nan)
    return np.array(found)


def _apart(passes: list[Pass]) -> float:
    times = [one.measurement.time_us or 0.0 for one in passes]
    return (max(times) - min(times)) / statistics.fmean(times)


def _noise(apart: F64) -> Noise | None:
    if not len(apart):
        return None
    return Noise(
        pairs=len(apart),
        median=float(np.median(apart)),
        p90=float(np.percentile(apart, 90)),
        beyond_2_percent=float((apart > 0.02).mean()),
    )
