"""Which configurations of which studies are measured, and in which order: a stored plan."""

import gzip
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sim import Gpu
from tiles.kernels import Kernel, TileConfig
from tiles.kernels.closure import source_digest
from tiles.problems import parse_problem
from tiles.regular_file import check_regular
from tuning.family import family
from tuning.plan import StudyPlan

__all__ = ["OWN", "SCHEMA", "Design", "RecordedStudy", "read_design", "write_design"]

SCHEMA = "tile-workbench/recording/1"
#: Of a study, the model's best for that very shape.
OWN = 3
#: Of a study, the configurations that are measured again: the model's best, and of the
#: others the first and every sixth from there on.
REPEAT_EVERY = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedStudy:
    """One problem with one family and the configurations that are measured of it."""

    plan: StudyPlan
    part: str  #: the data set that it belongs to: "products", "streams", "others" or "warm"
    cache: str  #: "cold" or "warm"
    legal_size: int
    configs: tuple[TileConfig, ...]  #: in the order of measuring

    @property
    def kernel(self) -> Kernel:
        """The family."""
        return family(self.plan.kernel)

    @property
    def repeated(self) -> tuple[TileConfig, ...]:
        """Configurations that every pass measures; the others are measured by the first alone."""
        return tuple(
            one
            for place, one in enumerate(self.configs)
            if place < OWN or place % REPEAT_EVERY == OWN
        )

    @property
    def key(self) -> str:
        """What its measurements are known by."""
        return f"{self.plan.problem}|{self.plan.kernel}|{self.cache}"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready mapping, inverse of :meth:`from_dict`."""
        return {
            **self.plan.to_dict(),
            "part": self.part,
            "cache": self.cache,
            "legal_size": self.legal_size,
            "fields": list(self.configs[0].to_dict()),
            "configs": [list(one.to_dict().values()) for one in self.configs],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RecordedStudy":
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: a family or a configuration that there is not.
        """
        kind = family(data["kernel"]).config_type
        return cls(
            plan=StudyPlan(problem=parse_problem(data["problem"]), kernel=data["kernel"]),
            part=data["part"],
            cache=data["cache"],
            legal_size=data["legal_size"],
            configs=tuple(
                kind.from_dict(dict(zip(data["fields"], row, strict=True)))
                for row in data["configs"]
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Design:
    """All studies in the order of measuring, and what they were chosen with."""

    gpu: str
    gpu_sha256: str
    seed: int
    sources: Mapping[str, str]  #: SHA-256 of every family's kernel source
    studies: tuple[RecordedStudy, ...]

    @cached_property
    def by_key(self) -> Mapping[str, RecordedStudy]:
        """Studies by :attr:`RecordedStudy.key`."""
        return {one.key: one for one in self.studies}


def write_design(design: Design, path: Path) -> None:
    """Write a design, gzipped JSON, under a temporary name that is then renamed.

    Raises:
        ValueError: a device or a pipe stands there.
    """
    content = {
        "schema": SCHEMA,
        "gpu": design.gpu,
        "gpu_sha256": design.gpu_sha256,
        "seed": design.seed,
        "sources": dict(design.sources),
        "studies": [one.to_dict() for one in design.studies],
    }
    check_regular(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    data = json.dumps(content, separators=(",", ":")).encode()
    temporary.write_bytes(gzip.compress(data, mtime=0))  # the same design, the same bytes
    temporary.replace(path)


def read_design(path: Path, gpu: Gpu) -> Design:
    """Read a stored design and check that it still is what would be measured.

    Raises:
        ValueError: damaged, of another GPU or GPU file, or a kernel's source has changed since.
    """
    try:
        data = json.loads(gzip.decompress(path.read_bytes()))
        if data["schema"] != SCHEMA:
            raise ValueError(f"its schema is {data['schema']!r}, this version reads {SCHEMA!r}")
        design = Design(
            gpu=data["gpu"],
            gpu_sha256=data["gpu_sha256"],
            seed=data["seed"],
            sources=data["sources"],
            studies=tuple(map(RecordedStudy.from_dict, data["studies"])),
        )
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no design of a recording: {error}: remove the file") from error
    if design.gpu_sha256 != hashlib.sha256(gpu.text.encode()).hexdigest():
        raise ValueError(
            f"{path}: made for another file of {design.gpu}: remove it, a new one is made"
        )
    for name, digest in design.sources.items():
        if source_digest(family(name).template) != digest:
            raise ValueError(
                f"{path}: the source of {name} has changed since: remove the file, a new one is "
                "made, and what was measured of the old source stays beside it"
            )
    return design
