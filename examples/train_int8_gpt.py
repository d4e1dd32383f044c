"""Train a GPT on bytes of text with Jetfire's INT8 dataflow, and beside it in bf16.

    python examples/train_int8_gpt.py            # seconds on a CPU: the kernels' torch twin
    python examples/train_int8_gpt.py --gpu      # 25 million parameters on the kernels

The text is the Python standard library's own source, or a file of yours.
"""

import argparse
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from tiles.recipes import Recipe
from workbench.nn import (
    RECIPES,
    LowPrecisionAdamW,
    StepGuard,
    TransformerBlock,
    convert,
    training_runtime,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Extents of a model and its training."""

    width: int
    heads: int
    layers: int
    tokens: int
    batch: int
    steps: int
    rate: float


TINY = Size(width=64, heads=2, layers=2, tokens=64, batch=8, steps=40, rate=5e-3)
LARGE = Size(width=512, heads=8, layers=8, tokens=512, batch=32, steps=2000, rate=6e-4)


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
        fed: torch.Tensor = self.down(self.activation(self.up(normed)))
        return stream + fed


class Gpt(nn.Module):
    """A decoder over bytes; last norm and head are fp32 whatever the residual stream's dtype."""

    def __init__(self, size: Size, dtype: torch.dtype = torch.bfloat16) -> None:
        super().__init__()
        self.dtype = dtype  # of the residual stream
        self.embed = nn.Embedding(256, size.width)
        self.place = nn.Embedding(size.tokens, size.width)
        self.blocks = nn.Sequential(*(Block(size.width, size.heads) for _ in range(size.layers)))
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, 256, bias=False)
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


def build(size: Size, recipe: str | Recipe, seed: int, device: str) -> Gpt:
    """The same initial parameters under any recipe; norm and head at the end stay in fp32."""
    torch.manual_seed(seed)
    model = Gpt(size)
    run = training_runtime(recipe, seed=seed)
    if run.dataflow:
        coded = nn.Sequential(
            *(TransformerBlock(size.width, size.heads, run) for _ in range(size.layers))
        )
        coded.load_state_dict(model.blocks.state_dict())
        model.blocks = coded
    else:
        convert(model, recipe, keep=("norm", "head"), seed=seed)
    return model.to(device)


def optimizer_of(
    model: nn.Module, recipe: str | Recipe, *, rate: float, seed: int
) -> torch.optim.Optimizer:
    """Torch's AdamW, or one that keeps weights and moments as the recipe has them."""
    found = training_runtime(recipe).recipe
    if {str(found.update), *map(str, found.moments)} == {"fp32"}:
        return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.1)
    return LowPrecisionAdamW.of(model, found, lr=rate, weight_decay=0.1, seed=seed)


def text_of(path: Path | None) -> torch.Tensor:
    """Bytes of a file, or of the standard library's modules in the order of their names."""
    if path is not None:
        data = path.read_bytes()
    else:
        folder = Path(sysconfig.get_path("stdlib"))
        data = b"".join(p.read_bytes() for p in sorted(folder.glob("*.py")))
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).long()


def batch_of(text: torch.Tensor, size: Size, generator: torch.Generator) -> torch.Tensor:
    starts = torch.randint(len(text) - size.tokens - 1, (size.batch,), generator=generator)
    return torch.stack([text[s : s + size.tokens + 1] for s in starts.tolist()])


def loss_of(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    logits = model(batch[:, :-1])
    return nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def train(size: Size, recipe: str | Recipe, text: torch.Tensor, *, seed: int, device: str) -> float:
    """Train on nine tenths of the text; the mean loss on batches of the last tenth."""
    split = len(text) * 9 // 10
    model = build(size, recipe, seed, device)
    optimizer = optimizer_of(model, recipe, rate=size.rate, seed=seed)
    guard = StepGuard(model, optimizer, max_norm=1.0)
    generator = torch.Generator().manual_seed(seed)
    for step in range(size.steps):
        for group in optimizer.param_groups:
            group["lr"] = size.rate * min(1.0, (step + 1) / (size.steps / 10))
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model, batch_of(text[:split], size, generator).to(device))
        loss.backward()  # type: ignore[no-untyped-call]  # torch
        guard.step()
    held_out = torch.Generator().manual_seed(0)
    with torch.no_grad():
        losses = [
            loss_of(model, batch_of(text[split:], size, held_out).to(device)) for _ in range(4)
        ]
    return float(torch.stack(losses).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipe", choices=RECIPES, default="jetfire")
    parser.add_argument("--gpu", action="store_true", help="the large model, on the CUDA kernels")
    parser.add_argument("--steps", type=int, help="of training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--text", type=Path, help="a file of at least 10 000 bytes")
    given = parser.parse_args()
    if given.gpu and not torch.cuda.is_available():
        parser.error("--gpu: torch sees no CUDA device here; leave it out for the tiny model")
    if given.text is not None and not given.text.is_file():
        parser.error(f"--text {given.text}: no such file")
    if given.steps is not None and given.steps < 1:
        parser.error(f"--steps {given.steps}: at least 1")
    text = text_of(given.text)
    if len(text) < 10_000:
        parser.error(f"--text {given.text}: {len(text)} bytes, at least 10 000 are needed")
    size = LARGE if given.gpu else TINY
    if not given.gpu:
        torch.set_num_threads(1)  # tensors this small cost threads more than they bring
    if given.steps is not None:
        size = Size(**{f: getattr(size, f) for f in Size.__slots__} | {"steps": given.steps})
    for recipe in dict.fromkeys(("bf16", given.recipe)):
        begin = time.perf_counter()
        loss = train(size, recipe, text, seed=given.seed, device="cuda" if given.gpu else "cpu")
        seconds = time.perf_counter() - begin
        print(f"{recipe}: {size.steps} steps, validation loss {loss:.4f}, {seconds:.1f} s")


if __name__ == "__main__":
    main()
