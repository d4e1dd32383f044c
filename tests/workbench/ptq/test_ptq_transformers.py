"""Models of Hugging Face, as they are: operators found, quantised, written and read back."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

from workbench.ptq import load, quantize

pytestmark = pytest.mark.slow

MASK = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])


def model_of(name: str, seed: int = 0) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    made = {
        "bert": lambda: transformers.BertModel(
            transformers.BertConfig(
                vocab_size=100,
                hidden_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=64,
            )
        ),
        "gpt2": lambda: transformers.GPT2Model(
            transformers.GPT2Config(
                vocab_size=100,
                n_embd=32,
                n_layer=2,
                n_head=2,
                n_positions=32,
                bos_token_id=0,
                eos_token_id=0,
            )
        ),
        "llama": lambda: transformers.LlamaModel(
            transformers.LlamaConfig(
                vocab_size=100,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
            )
        ),
    }[name]()
    assert isinstance(made, nn.Module)
    return made.eval()


#: Quantised operators of the standard scheme by kind: two layers each.  BERT has three tables and
#: a pooler, GPT-2 two tables and fused projections, Llama one table and seven projections.
KINDS = {
    "bert": {"embedding": 3, "linear": 13, "matmul": 4},
    "gpt2": {"embedding": 2, "linear": 8, "matmul": 4},
    "llama": {"embedding": 1, "linear": 14, "matmul": 4},
}


@pytest.mark.parametrize("name", list(KINDS))
def test_a_model_of_hugging_face_is_quantised_as_it_is(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    ids = torch.randint(0, 100, (2, 9), generator=torch.Generator().manual_seed(1))
    batches = [(ids,) if name == "gpt2" else (ids, MASK)]  # GPT-2's second argument is a cache
    made = quantize(model, "fp8-ptq-e4m3", calibration=batches)
    assert Counter(o.kind for o in made.operators) == KINDS[name]
    extended = quantize(model, "fp8-ptq-mixed", calibration=batches, scheme="extended")
    kinds = Counter(o.kind for o in extended.operators)
    assert kinds["add"] >= 4
    if name != "llama":  # whose norms are sums and products of their own
        assert kinds["layernorm"] >= 4
    with torch.no_grad():
        exact, plain, wide = (
            m(input_ids=ids).last_hidden_state for m in (model, made.model, extended.model)
        )
    for y in (plain, wide):
        assert 0 < float((y - exact).norm() / exact.norm()) < 0.2
    assert not extended.unmet
    path = extended.save(tmp_path / "model.safetensors")
    again = load(model_of(name, seed=4), path, "fp8-ptq-mixed")
    with torch.no_grad():
        assert torch.equal(again.model(input_ids=ids).last_hidden_state, wide)
