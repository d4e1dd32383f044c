"""Classes of texts by the encoder and a linear layer that is trained on its embeddings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from bench.accuracy.checkpoints import kept_or_made
from bench.accuracy.corpus import Corpus, digest_of, draw
from bench.accuracy.encoder import embed, encoder_source, load_encoder, token_batches, tokens_of
from bench.accuracy.task import Batch, Card, device_of, parameters_of
from bench.accuracy.training import Metric, code_digest, one_thread

__all__ = ["Classification", "Example", "TextClassifier", "Texts", "by_area", "matching"]

#: Tokens of one text; a pair's texts have as many each.
TOKENS = 48
CALIBRATION = 64
_STEPS, _RATE, _PENALTY = 300, 0.02, 1e-2

#: One text, or two whose relation is asked for.
Example = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Labelled texts, to train the last layer on and to be judged by."""

    classes: tuple[str, ...]
    kept: tuple[tuple[Example, int], ...]
    judged: tuple[tuple[Example, int], ...]
    source: str

    @property
    def digest(self) -> str:
        """Of every text and label."""
        both = (*self.kept, *self.judged)
        return digest_of(*(part for texts, label in both for part in (*texts, str(label))))


def by_area(found: dict[str, list[str]], source: str) -> Texts:
    """Which class a text belongs to; half of the texts are judged.

    A text under two classes has no label and is passed over.
    """
    classes = tuple(found)
    texts = [(text, label) for label, name in enumerate(classes) for text in found[name]]
    counts: dict[str, int] = {}
    for text, _ in texts:
        counts[text] = counts.get(text, 0) + 1
    once = sorted((one for one in texts if counts[one[0]] == 1), key=lambda one: draw(one[0]))
    rows = tuple(((text,), label) for text, label in once)
    half = len(rows) // 2
    return Texts(classes=classes, kept=rows[:half], judged=rows[half:], source=source)


def matching(corpora: Sequence[Corpus]) -> Texts:
    """Whether a function is the one that a docstring describes; half of the docstrings are judged.

    Each docstring comes with its own function and with that of the pair before it.
    """
    rows: list[list[tuple[Example, int]]] = [[], []]
    for corpus in corpora:
        half = len(corpus.pool) // 2
        for side, part in enumerate((corpus.pool[:half], corpus.pool[half:])):
            for index, one in enumerate(part):
                rows[side].append(((one.query, one.answer), 1))
                rows[side].append(((one.query, part[index - 1].answer), 0))
    source = "; ".join(corpus.source for corpus in corpora)
    return Texts(
        classes=("another function", "its function"),
        kept=tuple(rows[0]),
        judged=tuple(rows[1]),
        source=source,
    )


class TextClassifier(nn.Module):
    """Logits by a linear layer on one embedding, or on difference and product of two."""

    def __init__(self, encoder: nn.Module, head: nn.Linear) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, *tokens: torch.Tensor) -> torch.Tensor:
        """Logits (texts, classes).

        Args:
            tokens: ids and mask of the first text, and those of the second where there is one.
        """
        sides = [self.encoder(*tokens[at : at + 2]) for at in range(0, len(tokens), 2)]
        return self.head(features(sides))


def features(sides: Sequence[torch.Tensor]) -> torch.Tensor:
    """What the linear layer is given of the embeddings of one or two texts."""
    if len(sides) == 1:
        return sides[0]
    return torch.cat(((sides[0] - sides[1]).abs(), sides[0] * sides[1]), dim=-1)


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Accuracy on texts that the last layer was not trained on."""

    name: str
    texts: Callable[[], Texts]
    cache: Path  #: folder of checkpoints
    layers: int | None = None  #: of the encoder's six, the first; all by default
    family: str = "encoder"

    @cached_property
    def _texts(self) -> Texts:
        return self.texts()

    def model(self) -> nn.Module:
        """The encoder with its trained last layer."""
        encoder = load_encoder(self.layers)
        sides = len(self._texts.judged[0][0])
        width = 384 * sides

        def trained() -> nn.Linear:
            return _trained_head(encoder, self._texts, width)

        made = nn.Linear(width, len(self._texts.classes))
        path = self.cache / f"{self.name}-{self.digest()}.safetensors"
        return TextClassifier(encoder, kept_or_made(path, made, trained)).eval()

    def calibration(self) -> list[Batch]:
        """Texts that the last layer was trained on."""
        return _batches([texts for texts, _ in self._texts.kept[:CALIBRATION]])[0]

    @torch.no_grad()
    def score(self, model: nn.Module) -> float:
        """The share of texts whose class is told."""
        batches, order = _batches([texts for texts, _ in self._texts.judged])
        device = device_of(model)
        logits = [model(*(one.to(device) for one in batch)).float().cpu() for batch in batches]
        labels = torch.tensor([label for _, label in self._texts.judged])[order]
        return Metric.ACCURACY.score(torch.cat(logits), labels)

    def digest(self) -> str:
        """Of texts, packages and the code that trains the last layer."""
        given = f"{TOKENS} {self.layers} {encoder_source()} {torch.__version__}"
        return digest_of(self._texts.digest, code_digest(), given)

    def card(self) -> Card:
        """Texts, tokens and source."""
        texts = self._texts
        labels = [label for _, label in texts.judged]
        encoder = load_encoder(self.layers)
        sides = range(len(texts.judged[0][0]))
        return Card(
            name=self.name,
            family=self.family,
            architecture=f"BERT encoder (all-MiniLM-L6-v2, {self.layers or 6} layers), linear head",
            metric=Metric.ACCURACY.value,
            parameters=parameters_of(encoder) + (384 * len(sides) + 1) * len(texts.classes),
            samples=len(labels),
            calibration_samples=min(CALIBRATION, len(texts.kept)),
            source=texts.source,
            digest=texts.digest,
            counted=True,
            chance=max(map(labels.count, labels)) / len(labels),
            tokens={
                f"text {side + 1}": tokens_of([one[side] for one, _ in texts.judged], TOKENS)
                for side in sides
            },
        )


def _batches(examples: Sequence[Example]) -> tuple[list[Batch], torch.Tensor]:
    """Ids and mask of each side, in the order of the first side's lengths."""
    first, order = token_batches([one[0] for one in examples], TOKENS)
    if len(examples[0]) == 1:
        return first, order
    found: list[Batch] = []
    rows = iter(order.tolist())
    for ids, mask in first:
        seconds = [examples[next(rows)][1] for _ in range(len(ids))]
        (batch,), places = token_batches(seconds, TOKENS, len(seconds))
        back = places.argsort()
        found.append((ids, mask, *(one[back] for one in batch)))
    return found, order


def _trained_head(encoder: nn.Module, texts: Texts, width: int) -> nn.Linear:
    """Logistic regression with a penalty on embeddings, which are standardised meanwhile."""
    sides = len(texts.kept[0][0])
    columns = [
        embed(encoder, [one[side] for one, _ in texts.kept], TOKENS) for side in range(sides)
    ]
    rows = features(columns)
    labels = torch.tensor([label for _, label in texts.kept])
    spread = rows.std(0).clamp_min(1e-6)
    with one_thread(0):
        head = nn.Linear(width, len(texts.classes))
        optimizer = torch.optim.AdamW(head.parameters(), lr=_RATE, weight_decay=0.0)
        for _ in range(_STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(head(rows / spread), labels)
            (loss + _PENALTY * head.weight.square().sum()).backward()
            optimizer.step()
    with torch.no_grad():
        head.weight /= spread
    return head
