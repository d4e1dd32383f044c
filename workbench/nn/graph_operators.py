"""The linear layer as operators of a graph, for ``torch.compile``: codes are tensors, keys too.

Each operator is a function of its operands alone, so the compiler may order them, make one of two
that are equal (codes that several layers read), and save what it likes.  What they compute is what
the layer computes outside of a graph, by the same backend, on the current stream.  The place of a
runtime among those of this process finds that backend and is an operand; the formats stand in the
graph itself, since they decide about shapes.
"""

from typing import TYPE_CHECKING, Any

import torch

from tiles.formats import TensorFormat
from workbench.nn.codes import BothDirections, Codes
from workbench.nn.graph_layouts import codes_of, layouts, promised, stored
from workbench.nn.in_graph import runtime_at
from workbench.nn.seeds import derived

if TYPE_CHECKING:
    from workbench.nn.runtime import Runtime

__all__ = ["SUMMED", "gradients", "input_codes", "key", "product"]

_MASK = 2**64 - 1
#: Launches are the backend's own, with keys of the host: no graph of CUDA may hold them.
_TAGS = (torch.Tag.cudagraph_unsafe,)
#: Dtypes that products write.
SUMMED = (torch.bfloat16, torch.float16, torch.float32)


@torch.library.custom_op("tile_workbench_nn::key", mutates_args=(), tags=_TAGS)
def key(
    counter: torch.Tensor, place: torch.Tensor, formats: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """A key of random bits and the counter behind it, both () int64 of the CPU."""
    count = int(counter)
    drawn = runtime_at(place, formats).key_at(count)
    signed = drawn if drawn < 2**63 else drawn - 2**64
    return torch.tensor(signed), torch.tensor(count + 1)


@key.register_fake
def _(
    counter: torch.Tensor, place: torch.Tensor, formats: str
) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.empty_like(counter), torch.empty_like(counter)


@torch.library.custom_op("tile_workbench_nn::input_codes", mutates_args=(), tags=_TAGS)
def input_codes(
    x: torch.Tensor, place: torch.Tensor, formats: str, turned: bool
) -> list[torch.Tensor]:
    """Codes of activations (..., K), followed by those of the transpose if asked."""
    run = runtime_at(place, formats)
    operand = run.operand(x, both=turned)
    made = stored(operand.forward, x)
    return made if operand.turned is None else made + stored(operand.turned, x)


@input_codes.register_fake
def _(x: torch.Tensor, place: torch.Tensor, formats: str, turned: bool) -> list[torch.Tensor]:
    fmt = TensorFormat.parse(formats.split()[0])
    cols = x.shape[-1]
    rows = x.numel() // cols
    made = promised(fmt, rows, cols, x.device)
    return made + promised(fmt, cols, rows, x.device) if turned else made


def _weights(run: "Runtime", matrix: torch.Tensor) -> BothDirections:
    """Codes of a weight, those that its layer keeps where it does."""
    assert run.in_graph is not None
    layer = run.in_graph.layer_of(matrix)
    if layer is not None and layer.keeps_codes:
        return layer.weight_codes()
    return run.weights(matrix, train=True)


@torch.library.custom_op("tile_workbench_nn::product", mutates_args=(), tags=_TAGS)
def product(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    codes: list[torch.Tensor],
    seed: torch.Tensor | None,
    place: torch.Tensor,
    formats: str,
    dtype: torch.dtype,
) -> torch.Tensor:
    """``x · weight^T + bias`` in a dtype.

    Args:
        x: (..., K), for its shape and its gradient alone.
        weight: (N, K).
        codes: of ``x``, see :func:`input_codes`.
        seed: a key; there is none where nothing is trained.
    """
    run = runtime_at(place, formats)
    fmt = run.recipe.activation
    forward = codes_of(codes[: len(layouts(fmt, 1, 1))], fmt)
    weights = _weights(run, weight).forward
    backend = run.backend(x.device)
    values = backend.product(forward, weights, dtype=dtype, bias=bias)
    return values.view(*x.shape[:-1], weight.shape[0])


@product.register_fake
def _(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    codes: list[torch.Tensor],
    seed: torch.Tensor | None,
    place: torch.Tensor,
    formats: str,
    dtype: torch.dtype,
) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=dtype)


@torch.library.custom_op("tile_workbench_nn::gradients", mutates_args=(), tags=_TAGS)
def gradients(
    dy: torch.Tensor,
    weight: torch.Tensor,
    codes: list[torch.Tensor],
    seed: torch.Tensor,
    place: torch.Tensor,
    formats: str,
    dtype: torch.dtype,
    of_input: bool,
    of_weight: bool,
    of_bias: torch.dtype | None,
) -> list[torch.Tensor]:
    """Gradients of a product's operands, those of them that are asked for.

    Args:
        dy: (..., N).
        dtype: of the input's gradient, (rows, K).
        of_bias: dtype of the bias's gradient, if there is one.
    """
    run = runtime_at(place, formats)
    backend, recipe, drawn = run.backend(dy.device), run.recipe, int(seed) & _MASK
    made: list[torch.Tensor] = []
    if of_input or of_weight:
        both = run.gradient_directions(dy, derived(drawn, 0), derived(drawn, 2), both=of_weight)
        grad = both.forward
    if of_input:
        weights, turn = _weights_of_gradient(run, weight)
        # As it leaves the gradient of the weight, without codes of the transpose.
        bare = Codes(main=grad.main)
        made.append(backend.product(bare, weights, dtype=dtype, turn_b=turn))
    if of_weight:
        fmt, per = recipe.activation, len(layouts(recipe.activation, 1, 1))
        turned = len(codes) > per
        x = codes_of(codes[per:] if turned else codes, fmt)
        wanted = weight.dtype
        d_weight = backend.product(
            grad if both.turned is None else both.turned,
            x,
            dtype=wanted if wanted in SUMMED else torch.float32,
            turn_a=both.turned is None,
            turn_b=not turned,
        )
        made.append(d_weight.to(wanted))
    if of_bias is not None:
        plain = dy.reshape(-1, dy.shape[-1])
        made.append(plain.sum(dim=0, dtype=torch.float32).to(of_bias))
    return made


@gradients.register_fake
def _(
    dy: torch.Tensor,
    weight: torch.Tensor,
    codes: list[torch.Tensor],
    seed: torch.Tensor,
    place: torch.Tensor,
    formats: str,
    dtype: torch.dtype,
    of_input: bool,
    of_weight: bool,
    of_bias: torch.dtype | None,
) -> list[torch.Tensor]:
    n, k = weight.shape
    made: list[torch.Tensor] = []
    if of_input:
        made.append(dy.new_empty((dy.numel() // n, k), dtype=dtype))
    if of_weight:
        made.append(dy.new_empty((n, k), dtype=weight.dtype))
    if of_bias is not None:
        made.append(dy.new_empty((n,), dtype=of_bias))
    return made


def _weights_of_gradient(run: "Runtime", matrix: torch.Tensor) -> tuple[Codes, bool]:
    """Codes of the weight as the input's gradient reads them, and whether they are turned."""
    assert run.in_graph is not None
    layer = run.in_graph.layer_of(matrix)
    if layer is not None and not layer.keeps_codes:
        return run.backend(matrix.device).quantize(matrix.t(), run.recipe.weight), False
    weights = _weights(run, matrix)
    if weights.turned is None:
        return weights.forward, True
    return weights.turned, False


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    x, weight, bias, codes, seed, place, formats, _ = inputs
    ctx.save_for_backward(weight, seed, place, *codes)
    ctx.formats, ctx.shape, ctx.dtype = formats, x.shape, x.dtype
    ctx.bias = None if bias is None else bias.dtype


def _backward(ctx: Any, dy: torch.Tensor) -> tuple[Any, ...]:
    weight, seed, place, *codes = ctx.saved_tensors
    of_input, of_weight, of_bias = ctx.needs_input_grad[:3]
    grads = iter(
        gradients(
            *(dy, weight, codes, seed, place, ctx.formats, ctx.dtype, of_input, of_weight),
            ctx.bias if of_bias else None,
        )
    )
    d_x = next(grads).view(ctx.shape) if of_input else None
    d_weight = next(grads) if of_weight else None
    d_bias = next(grads) if of_bias else None
    return d_x, d_weight, d_bias, [None] * len(codes), None, None, None, None


product.register_autograd(_backward, setup_context=_save)
