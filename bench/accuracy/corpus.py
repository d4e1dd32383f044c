"""Labelled pairs of texts: a query, and the one candidate that answers it."""

import hashlib
import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Corpus", "Labelled", "digest_of", "draw", "origin", "package_folder"]


def digest_of(*texts: str) -> str:
    """SHA-256 of texts in order, first 16 digits; where one ends and the next begins counts."""
    found = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return found.hexdigest()[:16]


def draw(key: str, seed: int = 0) -> str:
    """A place in a random order that does not move when others come or go."""
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).hexdigest()


def origin(*packages: str) -> str:
    """Packages with their versions, for a record; "stdlib" is Python's own."""
    found = []
    for name in packages:
        if name == "stdlib":
            found.append(f"Python {platform.python_version()}")
            continue
        named = importlib.metadata.packages_distributions().get(name, [name])[0]
        found.append(f"{named} {importlib.metadata.version(named)}")
    return ", ".join(found)


def package_folder(package: str) -> Path:
    """Where an installed package's files lie; the package is not imported.

    Raises:
        ValueError: it is not installed.
    """
    if package == "stdlib":
        return Path(hashlib.__file__).parent
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ValueError(f"{package} is missing: pip install 'tile-workbench[dev]'")
    return Path(found.origin).parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """A query and its answer."""

    query: str
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A pool of labelled pairs, and further ones to calibrate with."""

    name: str
    pool: tuple[Labelled, ...]  #: the answers of all are each query's candidates
    calibration: tuple[Labelled, ...]  #: none of them is in the pool
    source: str

    @property
    def digest(self) -> str:
        """Of every text; a package that changed makes another."""
        return digest_of(
            *(text for one in (*self.pool, *self.calibration) for text in (one.query, one.answer))
        )

    @classmethod
    def of(
        cls,
        name: str,
        found: Iterable[Labelled],
        source: str,
        *,
        pool: int,
        calibration: int = 32,
        least: int = 100,
    ) -> "Corpus":
        """The first pairs of a stream; a query or answer that came before is passed over.

        Args:
            pool: at most; as many as there are beyond those for calibration, which come first.
            least: of the pool, where so many were asked for.
        Raises:
            ValueError: the stream ends before the pool has ``least``.
        """
        least = min(least, pool)
        queries: set[str] = set()
        answers: set[str] = set()
        taken: list[Labelled] = []
        for one in found:
            query, answer = " ".join(one.query.lower().split()), " ".join(one.answer.split())
            if query in queries or answer in answers:
                continue
            queries.add(query)
            answers.add(answer)
            taken.append(one)
            if len(taken) == pool + calibration:
                break
        if len(taken) - calibration < least:
            raise ValueError(
                f"{name}: {len(taken)} labelled pairs in {source}: at least "
                f"{least + calibration} are needed: install the packages that constraints.txt pins"
            )
        return cls(
            name=name,
            calibration=tuple(taken[:calibration]),
            pool=tuple(taken[calibration:]),
            source=source,
        )
