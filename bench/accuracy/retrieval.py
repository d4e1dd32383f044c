"""Finding a text's answer among all answers by the encoder's embeddings."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from bench.accuracy.corpus import Corpus, digest_of
from bench.accuracy.encoder import (
    embed,
    encoder_source,
    load_encoder,
    token_batches,
    tokens_of,
)
from bench.accuracy.task import Batch, Card, parameters_of

__all__ = ["ANSWER_TOKENS", "QUERY_TOKENS", "Retrieval", "mean_reciprocal_rank"]

QUERY_TOKENS, ANSWER_TOKENS = 64, 128


def mean_reciprocal_rank(similarities: torch.Tensor) -> float:
    """Mean of 1 / rank of the diagonal in each row.

    Args:
        similarities: (queries, candidates), the answer of query i is candidate i.  What ties with
            the answer, or cannot be compared with it (NaN), ranks before it: a model that answers
            the same to everything has found nothing.
    """
    own = similarities.diagonal().unsqueeze(1)
    ranks = (~(similarities < own)).sum(1)
    return float((1.0 / ranks.double()).mean())


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Mean reciprocal rank of a query's answer among the answers of a corpus."""

    name: str
    corpus: Callable[[], Corpus]
    load: Callable[[], nn.Module] = load_encoder
    family: str = "encoder"

    def model(self) -> nn.Module:
        """The trained encoder."""
        return self.load()

    def calibration(self) -> list[Batch]:
        """Queries and answers that are in no pool."""
        found: list[Batch] = []
        texts = self.corpus().calibration
        for side, limit in (("query", QUERY_TOKENS), ("answer", ANSWER_TOKENS)):
            found += token_batches([getattr(one, side) for one in texts], limit, 16)[0]
        return found

    def score(self, model: nn.Module) -> float:
        """Mean reciprocal rank by the dot product of embeddings, between 1 / pool and 1."""
        pool = self.corpus().pool
        queries = embed(model, [one.query for one in pool], QUERY_TOKENS)
        answers = embed(model, [one.answer for one in pool], ANSWER_TOKENS)
        return mean_reciprocal_rank(queries @ answers.T)

    def digest(self) -> str:
        """Of the corpus, the code that embeds and ranks, and the packages of the model."""
        paths = (Path(__file__), Path(__file__).with_name("encoder.py"))
        code = [path.read_text(encoding="utf-8") for path in paths]
        return digest_of(self.corpus().digest, encoder_source(), *code)

    def card(self) -> Card:
        """Pool, tokens and source."""
        corpus = self.corpus()
        pool = len(corpus.pool)
        return Card(
            name=self.name,
            family=self.family,
            architecture="BERT encoder (all-MiniLM-L6-v2), mean pooling",
            metric="mean reciprocal rank",
            parameters=_encoder_parameters(),
            samples=pool,
            calibration_samples=2 * len(corpus.calibration),
            source=corpus.source,
            digest=corpus.digest,
            chance=sum(1 / rank for rank in range(1, pool + 1)) / pool,
            tokens={
                "query": tokens_of([one.query for one in corpus.pool], QUERY_TOKENS),
                "answer": tokens_of([one.answer for one in corpus.pool], ANSWER_TOKENS),
            },
        )


@lru_cache(maxsize=1)
def _encoder_parameters() -> int:
    return parameters_of(load_encoder())
