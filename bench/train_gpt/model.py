"""The GPT that is trained: the same initial parameters under every recipe."""

import torch
from torch import nn

from bench.train_gpt.settings import VOCABULARY, Size
from workbench.nn import TransformerBlock, convert, training_runtime

__all__ = ["PLAIN", "Gpt", "build"]

#: The recipe that converts nothing: parameters, residual stream and products in fp32.
PLAIN = "fp32"


class Block(nn.Module):
    """The ordinary block, under the parameter names of ``workbench.nn.TransformerBlock``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation = nn.GELU()

    def forward(self, stream: torch.Tensor) -> torch.Tensor:
        # A norm takes numbers of its parameters' dtype, which on a GPU may not differ.
        parts = self.qkv(self.norm1(stream.float()).to(stream.dtype)).chunk(3, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in parts)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        stream = stream + self.out(mixed.transpose(1, 2).flatten(2))
        normed = self.norm2(stream.float()).to(stream.dtype)
        down: torch.Tensor = self.down(self.activation(self.up(normed)))
        return stream + down


class Gpt(nn.Module):
    """A decoder over bytes; last norm and head are fp32 under every recipe."""

    def __init__(self, size: Size, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype  # of the residual stream
        self.embed = nn.Embedding(VOCABULARY, size.width)
        self.place = nn.Embedding(size.tokens, size.width)
        self.blocks = nn.Sequential(*(Block(size.width, size.heads) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, VOCABULARY, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                deep = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(p, std=0.02 / (2 * size.layers) ** 0.5 if deep else 0.02)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(sequences, tokens) bytes to logits of the next ones, fp32."""
        places = torch.arange(ids.shape[1], device=ids.device)
        stream = (self.embed(ids) + self.place(places)).to(self.dtype)
        stream = self.blocks(stream).float()
        logits: torch.Tensor = self.head(self.norm(stream))
        return logits


def build(size: Size, recipe: str, seed: int) -> Gpt:
    """A model on the CPU, its layers following a recipe.

    Raises:
        ValueError: the recipe does not train here.
    """
    torch.manual_seed(seed)
    model = Gpt(size, torch.float32 if recipe == PLAIN else torch.bfloat16)
    if recipe == PLAIN:
        return model
    run = training_runtime(recipe, seed=seed)
    if not run.dataflow:
        convert(model, recipe, keep=("norm", "head"), seed=seed)
        return model
    coded = nn.Sequential(
        *(TransformerBlock(size.width, size.heads, run) for _ in range(size.layers))
    )
    coded.load_state_dict(model.blocks.state_dict())
    model.blocks = coded
    return model
