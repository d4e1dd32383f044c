"""Titles and sections of documentation that packages and Python carry."""

import importlib.metadata
import re
from collections.abc import Iterator

from bench.accuracy.corpus import Corpus, Labelled, draw, origin

__all__ = ["READMES", "headed", "language_reference", "readmes"]

#: Distributions with a README of several headed sections in their metadata.
READMES = (
    "annotated-doc",
    "annotated-types",
    "charset-normalizer",
    "cloudpickle",
    "colorlog",
    "email-validator",
    "fsspec",
    "hf-xet",
    "httpcore2",
    "httpx2",
    "huggingface_hub",
    "idna",
    "markdown-it-py",
    "ml_dtypes",
    "more-itertools",
    "mpmath",
    "narwhals",
    "networkx",
    "numpy",
    "optuna",
    "optuna-dashboard",
    "packaging",
    "pathspec",
    "platformdirs",
    "pluggy",
    "pyarrow",
    "pycparser",
    "pydantic",
    "pytest",
    "pytest-benchmark",
    "regex",
    "rich",
    "ruff",
    "safetensors",
    "scikit-learn",
    "sentence-transformers",
    "sigstore",
    "sortedcontainers",
    "SQLAlchemy",
    "sympy",
    "threadpoolctl",
    "tokenizers",
    "tomlkit",
    "torch",
    "tqdm",
    "transformers",
    "truststore",
    "typer",
    "urllib3",
)
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*$")
_UNDERLINE = re.compile(r"([=\-~*^+#\"'`])\1{3,}$")
_VERSION = re.compile(r"^\W*v?\d+(\.\d+)+")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_LEAST_WORDS = 20


def headed(text: str) -> Iterator[tuple[str, str]]:
    """Titles and the text below each, up to the next title, in Markdown or reStructuredText.

    What stands in a fenced block is no title.
    """
    title, body, fenced = "", list[str](), False
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if line.lstrip().startswith(("```", "~~~~")) and not _UNDERLINE.match(line.strip()):
            fenced = not fenced
        found = None if fenced else _HEADING.match(line)
        below = lines[number + 1].rstrip() if number + 1 < len(lines) else ""
        if found is None and not fenced and _UNDERLINE.match(below) and line.strip():
            long_enough = len(below) >= len(line.strip()) and not line.startswith((" ", "\t"))
            found = re.match(r"(.*\S)", line) if long_enough else None
        if found is None:
            if not _UNDERLINE.match(line.rstrip()) or fenced:
                body.append(line)
            continue
        if title:
            yield title, "\n".join(body).strip()
        title, body = found[1], []
    if title:
        yield title, "\n".join(body).strip()


def _labelled(text: str, least_words: int) -> Iterator[Labelled]:
    for title, body in headed(text):
        plain = _LINK.sub(r"\1", title).replace("`", "").replace("*", "").strip()
        words = [word for word in plain.split() if any(map(str.isalpha, word))]
        if len(words) < least_words or _VERSION.match(plain) or len(body.split()) < _LEAST_WORDS:
            continue
        yield Labelled(query=plain, answer=_LINK.sub(r"\1", body))


def _once(found: list[Labelled]) -> list[Labelled]:
    """Those whose title occurs once, in an order drawn from the titles."""
    titles = [one.query.lower() for one in found]
    return sorted(
        (one for one in found if titles.count(one.query.lower()) == 1),
        key=lambda one: draw(one.query),
    )


def readmes(*, pool: int = 256) -> Corpus:
    """Headings and sections of the READMEs in distributions' metadata.

    A distribution that is not installed is passed over, which the digest tells.
    """
    found: list[Labelled] = []
    versions: list[str] = []
    for name in READMES:
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        text = metadata.get_payload() or metadata["Description"] or ""  # type: ignore[attr-defined]
        before = len(found)
        found.extend(_labelled(text, 2))  # "Usage" is a heading of many
        if len(found) > before:
            versions.append(f"{name} {metadata['Version']}")
    return Corpus.of("readmes", _once(found), ", ".join(versions), pool=pool)


def language_reference(*, pool: int = 256) -> Corpus:
    """Headings and sections of Python's language reference, which its ``help()`` carries."""
    from pydoc_data.topics import topics

    unique: dict[str, Labelled] = {}
    for name in sorted(topics):  # a section may stand under several topics
        for one in _labelled(topics[name], 1):
            unique.setdefault(" ".join(one.answer.split()), one)
    found = _once(list(unique.values()))
    return Corpus.of("language-reference", found, origin("stdlib"), pool=pool)
