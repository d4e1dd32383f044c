"""Networks over bytes of text: transformers, convolutions, and an MLP over mean embeddings."""

import torch
from torch import nn

from bench.accuracy.vision_models import Attention, Layer, token_mlp

__all__ = ["ByteCnn", "ByteGpt", "ByteMeans", "ByteTransformer"]

BYTES = 256


class CausalAttention(Attention):
    """Attention to what came before."""

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(stream).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        scores = torch.matmul(q, k.transpose(-1, -2)) / q.shape[-1] ** 0.5
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        weights = torch.softmax(scores.masked_fill(later, float("-inf")), dim=-1)
        return self.out(torch.matmul(weights, v).transpose(1, 2).flatten(2))


class CausalLayer(Layer):
    """A decoder's layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(width, heads)
        self.attention = CausalAttention(width, heads)


class ByteGpt(nn.Module):
    """A decoder: logits of the next byte at every place."""

    def __init__(self, width: int, *, layers: int, heads: int, length: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(BYTES, width), nn.Embedding(length, width)
        self.layers = nn.Sequential(*(CausalLayer(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, BYTES, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        return self.head(self.norm(self.layers(self.embed(ids) + self.place(places))))


class PostNormLayer(nn.Module):
    """A transformer layer with norms behind the additions, as BERT has them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.feed_forward = Attention(width, heads), token_mlp(width, 4 * width)

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        stream = self.norm1(stream + self.attention(stream))
        return self.norm2(stream + self.feed_forward(stream))


class ByteTransformer(nn.Module):
    """An encoder over pairs of bytes, the mean of its tokens classified."""

    def __init__(self, width: int, classes: int, *, layers: int, heads: int, length: int) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(BYTES, width), nn.Embedding(length, width)
        self.join = nn.Linear(2 * width, width)
        self.layers = nn.Sequential(*(PostNormLayer(width, heads) for _ in range(layers)))
        self.head = nn.Linear(width, classes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        stream = self.embed(ids) + self.place(places)
        stream = self.join(stream.unflatten(1, (-1, 2)).flatten(2))
        return self.head(self.layers(stream).mean(1))


class ByteCnn(nn.Module):
    """Convolutions with BatchNorm over places, their largest answers classified."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(BYTES, width)
        # Convolutions of images one pixel high: those of sequences have kernels in fewer libraries.
        self.layers = nn.Sequential(
            nn.Conv2d(width, 2 * width, (1, 5), padding=(0, 2)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, (1, 5), stride=(1, 2), padding=(0, 2)),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        stream = self.embed(ids).transpose(1, 2).unsqueeze(2)
        return self.head(self.layers(stream).amax((2, 3)))


class ByteMeans(nn.Module):
    """The mean of embeddings of pairs of neighbours through a perceptron, as fastText."""

    BUCKETS = 4096

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(self.BUCKETS, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        pairs = (ids[:, :-1] * 31 + ids[:, 1:] * 257) % self.BUCKETS
        return self.mlp(self.embed(pairs).mean(1))
