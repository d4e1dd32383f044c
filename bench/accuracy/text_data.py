"""Bytes of text that Python and packages carry."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import torch

from bench.accuracy.corpus import draw, origin, package_folder
from bench.accuracy.training import Split, split_rows

__all__ = ["GPT_LENGTH", "KINDS", "SNIPPET", "next_bytes", "snippets"]

GPT_LENGTH = 64
SNIPPET = 64
#: What a snippet is to be told as: where it comes from, and which files.
KINDS = {
    "Python": ("stdlib", "*.py"),
    "Python stubs": ("torch", "*.pyi"),
    "C++ headers": ("torch", "include/ATen/**/*.h"),
    "prose": ("sklearn", "datasets/descr/*.rst"),
    "JavaScript": ("playwright", "driver/package/lib/**/*.js"),
}
_EACH = 600
_GPT_BYTES, _GPT_ROWS = 160_000, 200


def _texts(folder: Path, pattern: str) -> Iterator[bytes]:
    """Files in an order drawn from their names."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.glob(pattern)}
    for name in sorted(paths, key=draw):
        yield paths[name].read_bytes()


def _cut(texts: Iterator[bytes], length: int, count: int) -> torch.Tensor:
    """Rows of so many bytes out of the middle of texts, of none of them more than a share."""
    rows: list[bytes] = []
    texts_left = list(texts)
    share = max(4, 2 * count // max(1, len(texts_left)))
    for text in texts_left:
        step = max(length, len(text) // (share + 1))
        starts = range(0, len(text) - length, step)
        # A licence stands at the head of many files: a run of bytes counts once.
        rows = list(dict.fromkeys((*rows, *(text[at : at + length] for at in starts[:share]))))
        if len(rows) >= count:
            break
    data = b"".join(rows[:count])
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).long().view(-1, length)


@cache
def snippets() -> Split:
    """Runs of 64 bytes and the kind of file that they were cut from; half of them are judged."""
    parts = [
        _cut(_texts(package_folder(package), pattern), SNIPPET, _EACH)
        for package, pattern in KINDS.values()
    ]
    target = torch.cat([torch.full((len(part),), kind) for kind, part in enumerate(parts)])
    packages = dict.fromkeys(package for package, _ in KINDS.values())
    source = f"{', '.join(KINDS)} of {origin(*packages)}"
    return split_rows((torch.cat(parts),), target, source)


@cache
def next_bytes() -> Split:
    """The standard library's own source, in rows of 64 bytes; the byte after each is asked for.

    The rows that are judged come from the end of the text, in files that training has not seen.
    """
    text = b"".join(_texts(package_folder("stdlib"), "*.py"))[: 2 * _GPT_BYTES]
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    rows = data[: len(data) // (GPT_LENGTH + 1) * (GPT_LENGTH + 1)].view(-1, GPT_LENGTH + 1)
    kept, judged = rows[: _GPT_BYTES // GPT_LENGTH], rows[-_GPT_ROWS:]
    return Split(
        inputs=(kept[:, :-1],),
        target=kept[:, 1:],
        test_inputs=(judged[:, :-1],),
        test_target=judged[:, 1:],
        source=f"{origin('stdlib')}: its modules' source",
    )
