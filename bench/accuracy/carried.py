"""Retrieval pairs in one file, for a host that has none of their packages.

    python -m bench.accuracy.carried --pairs minilm.readmes --output FILE.safetensors
    python -m bench.accuracy --carried FILE.safetensors --device cuda ...    # there

The file holds the encoder's weights rounded to fp16, of its table the rows of tokens that occur,
and the tokens of every text.  Scores are those of the rounded weights, on every device.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.accuracy.corpus import digest_of
from bench.accuracy.encoder import (
    SentenceEncoder,
    bert_of,
    encoder_source,
    load_encoder,
    model_config,
    token_ids,
)
from bench.accuracy.pairs import all_pairs, chosen
from bench.accuracy.retrieval import ANSWER_TOKENS, QUERY_TOKENS, Retrieval, mean_reciprocal_rank
from bench.accuracy.task import Batch, Card, Tokens, device_of
from workbench.outfile import check_name, unwritable

__all__ = ["SCHEMA", "CarriedRetrieval", "carried_pairs", "carry", "main"]

SCHEMA = "tile-workbench/carried-pairs/1"
#: Tokens of every batch, whatever their texts' lengths: each layer has one product, compiled once.
BATCH_TOKENS = 4096
SIDES = {"query": QUERY_TOKENS, "answer": ANSWER_TOKENS}
PARTS = ("pool", "calibration")
_TABLE = "embeddings.word_embeddings.weight"
_KEY = "tile-workbench"


def carry(pairs: Sequence[Retrieval], path: Path) -> None:
    """Write pairs into a file.

    Raises:
        ValueError: the file cannot be written, or a package is missing.
    """
    from safetensors.torch import save_file

    check_name(path)
    sides: dict[str, list[list[int]]] = {}
    for pair in pairs:
        corpus = pair.corpus()
        for part in PARTS:
            texts = getattr(corpus, part)
            for side, limit in SIDES.items():
                found, _ = token_ids([getattr(one, side) for one in texts], limit)
                sides[f"{pair.name}/{part}/{side}"] = found
    # 0 is [PAD] and stays 0.
    used = sorted({0} | {one for texts in sides.values() for ids in texts for one in ids})
    place = {one: index for index, one in enumerate(used)}
    tensors = {name: _matrix(texts, place) for name, texts in sides.items()}
    encoder = load_encoder()
    bert = encoder.bert.state_dict()
    bert[_TABLE] = bert[_TABLE][torch.tensor(used)]
    tensors |= {f"bert/{name}": one.half().contiguous() for name, one in bert.items()}
    told = {
        "schema": SCHEMA,
        "config": model_config() | {"vocab_size": len(used)},
        "source": f"{encoder_source()}, weights rounded to fp16",
        "cards": [pair.card().to_dict() for pair in pairs],
    }
    temporary = path.with_name(f".{path.name}.new")
    with unwritable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, {_KEY: json.dumps(told, sort_keys=True)})
        temporary.replace(path)


def _matrix(texts: list[list[int]], place: dict[int, int]) -> torch.Tensor:
    """Tokens of texts (texts, longest), padded with -1."""
    found = torch.full((len(texts), max(map(len, texts))), -1, dtype=torch.int32)
    for row, ids in enumerate(texts):
        found[row, : len(ids)] = torch.tensor([place[one] for one in ids], dtype=torch.int32)
    return found


@dataclass(frozen=True)
class _File:
    """What was carried."""

    path: Path

    @cached_property
    def told(self) -> dict[str, Any]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "pt") as file:
                told: dict[str, Any] = json.loads((file.metadata() or {}).get(_KEY, "{}"))
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(f"{self.path}: cannot be read ({error})") from error
        if told.get("schema") != SCHEMA:
            raise ValueError(
                f"{self.path}: no pairs were carried in it: make it with "
                "python -m bench.accuracy.carried"
            )
        return told

    @cached_property
    def tensors(self) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        return load_file(self.path)

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]

    def encoder(self) -> SentenceEncoder:
        bert = bert_of(self.told["config"])
        prefix = "bert/"
        bert.load_state_dict(
            {
                name.removeprefix(prefix): one.float()
                for name, one in self.tensors.items()
                if name.startswith(prefix)
            }
        )
        return SentenceEncoder(bert).eval()


@dataclass(frozen=True)
class CarriedRetrieval:
    """Mean reciprocal rank of queries' answers, of tokens that a file holds."""

    name: str
    file: _File
    family: str = "encoder"

    def model(self) -> nn.Module:
        """The encoder with its rounded weights."""
        return self.file.encoder()

    def calibration(self) -> list[Batch]:
        """Queries and answers that are in no pool."""
        return [batch for side in SIDES for batch in batches_of(self._texts("calibration", side))]

    @torch.no_grad()
    def score(self, model: nn.Module) -> float:
        """As ``Retrieval`` has it, in batches of one size."""
        queries, answers = (self._embedded(model, side) for side in SIDES)
        return mean_reciprocal_rank(queries @ answers.T)

    def _texts(self, part: str, side: str) -> torch.Tensor:
        return self.file.tensors[f"{self.name}/{part}/{side}"]

    def _embedded(self, model: nn.Module, side: str) -> torch.Tensor:
        texts, device = self._texts("pool", side), device_of(model)
        rows = [
            model(*(one.to(device) for one in batch)).float().cpu() for batch in batches_of(texts)
        ]
        return torch.cat(rows)[: len(texts)]

    def digest(self) -> str:
        """Of the file and the code that batches and ranks."""
        here = Path(__file__)
        code = [
            here.with_name(name).read_text(encoding="utf-8")
            for name in (here.name, "encoder.py", "retrieval.py")
        ]
        return digest_of(self.file.digest, *code)

    def card(self) -> Card:
        """That of the pair, with what was rounded."""
        (found,) = (one for one in self.file.told["cards"] if one["name"] == self.name)
        given = {name: one for name, one in found.items() if name != "resolution"}
        given["tokens"] = {side: Tokens(**one) for side, one in given["tokens"].items()}
        given["architecture"] += ", weights in fp16"
        return Card(**given)


def batches_of(texts: torch.Tensor) -> list[Batch]:
    """Ids and masks of ``BATCH_TOKENS`` tokens each; the last batch begins again with its texts.

    Args:
        texts: (texts, longest), -1 where there is no token.
    """
    length = 1 << max(4, (texts.shape[1] - 1).bit_length())
    size = BATCH_TOKENS // length
    padded = nn.functional.pad(texts, (0, length - texts.shape[1]), value=-1)
    found: list[Batch] = []
    for begin in range(0, len(texts), size):
        rows = padded[begin : begin + size]
        rows = rows.repeat(-(-size // len(rows)), 1)[:size]
        found.append((rows.clamp_min(0).long(), (rows >= 0).long()))
    return found


def carried_pairs(path: Path) -> list[CarriedRetrieval]:
    """The pairs of a file.

    Raises:
        ValueError: it is none.
    """
    file = _File(path)
    return [CarriedRetrieval(card["name"], file) for card in file.told["cards"]]


def main(given: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for the caller's mistake."""
    parser = argparse.ArgumentParser(
        prog="bench.accuracy.carried", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--pairs", required=True, help="names or patterns, comma-separated")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(sys.argv[1:] if given is None else given)
    try:
        found = chosen(arguments.pairs, all_pairs())
        pairs = [pair for pair in found if isinstance(pair, Retrieval)]
        if others := [pair.name for pair in found if not isinstance(pair, Retrieval)]:
            raise ValueError(f"--pairs {others[0]}: only retrieval (minilm.*) can be carried")
        carry(pairs, arguments.output)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    size = arguments.output.stat().st_size / 2**20
    print(f"{arguments.output}: {len(pairs)} pairs, {size:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
