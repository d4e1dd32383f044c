"""The shapes that kernels are judged by: each list once; examples/kernels*.yaml sweep them."""

from collections.abc import Iterable

from tiles.problems import DATAFLOW_OPS

__all__ = [
    "ATTENTION",
    "DATAFLOW",
    "DECODING",
    "EXPERTS",
    "LARGE_BYTES",
    "LARGE_LAYERS",
    "SHAPES",
    "SMALL_LAYERS",
    "STREAMING",
    "TRAINING",
    "WGRAD",
    "by_tokens",
    "each",
]

#: (M, N, K) of the products: squares, layers of Llama-3 and DeepSeek-V3, and decoding.
SHAPES = (
    (4096, 4096, 4096),
    (8192, 8192, 8192),
    (4096, 14336, 4096),
    (4096, 4096, 14336),
    (4096, 7168, 16384),
    (4096, 2112, 7168),
    (16384, 4096, 1024),
    (2048, 3072, 768),
    (128, 7168, 2048),
    (64, 24576, 1536),
    (16, 8192, 8192),
)
#: Those with as many rows as training has.
TRAINING = tuple(shape for shape in SHAPES if shape[0] >= 2048)
DECODING = tuple(shape for shape in SHAPES if shape[0] <= 64)
#: Weight gradients of the same layers: the gradient of the N x K weight contracts the M tokens.
WGRAD = tuple(dict.fromkeys((n, k, m) for m, n, k in TRAINING))

#: Bytes from which a matrix counts as large: it does not fit in any GPU's L2.
LARGE_BYTES = 64 * 2**20
#: (N, K) of Llama-3-8B's and 70B's layers: QKV, output, gate and up, down.
_LAYERS = (
    (6144, 4096),
    (4096, 4096),
    (28672, 4096),
    (4096, 14336),
    (10240, 8192),
    (8192, 8192),
    (57344, 8192),
    (8192, 28672),
)
LARGE_LAYERS = tuple((n, k) for n, k in _LAYERS if 2 * n * k >= LARGE_BYTES)
SMALL_LAYERS = tuple((n, k) for n, k in _LAYERS if 2 * n * k < LARGE_BYTES)
_TOKENS = (1, 8, 32, 2048)

#: DeepSeek-V3's experts, up and down, few and all on a GPU: shape and layouts.
EXPERTS = (
    ("8x32768x4096x7168", ("padded.128", "contiguous", "masked.8192")),
    ("8x32768x7168x2048", ("padded.128", "contiguous", "masked.8192")),
    ("32x8192x4096x7168", ("padded.128", "contiguous", "masked.1024")),
    ("32x8192x7168x2048", ("padded.128", "contiguous", "masked.1024")),
    ("256x32768x4096x7168", ("padded.128", "contiguous")),
    ("256x32768x7168x2048", ("padded.128", "contiguous")),
)
#: 128 heads of 4096 tokens, 384 of 512: Q by K, then P by V, V stored as [N, K] and as [K, N].
ATTENTION = (
    "128x4096x4096x128:{}:nk",
    "384x512x512x64:{}:nk",
    "128x4096x128x4096:{}:nk",
    "128x4096x128x4096:{}:kn",
    "384x512x64x512:{}:nk",
    "384x512x64x512:{}:kn",
)

#: Tensors of at least 64 MiB in bf16 and, as codes, in 8 bits.
_TENSORS = ("8192x8192", "16384x4096")
_QUANTIZE = (
    "int8.row int8.b1x128 int8.b32x32 int8.b128x128 e4m3fn.row e4m3fn.b1x128 e4m3fn.b128x128 "
    "e5m2.b1x128 e4m3fn.mx nvfp4 int8.b32x32+sr"
).split()
_DEQUANTIZE = "int8.b32x32 e4m3fn.b1x128 e4m3fn.mx nvfp4".split()
STREAMING = tuple(
    text
    for tensor in _TENSORS
    for text in (
        *(f"quantize:{tensor}:{target}:bf16" for target in _QUANTIZE),
        f"quantize:{tensor}:int8.b32x32:bf16:transposed",
        f"quantize:{tensor}:int8.b128x128:bf16:transposed",
        *(f"dequantize:{tensor}:{source}:bf16" for source in _DEQUANTIZE),
        f"transpose:{tensor}:int8",
    )
)
DATAFLOW = tuple(
    f"dataflow:{tensor}:{op}:int8.b32x32+sr" for tensor in _TENSORS for op in DATAFLOW_OPS
)


def each(
    shapes: Iterable[tuple[int, ...]], *recipes: str, outs: Iterable[str] = ("bf16",)
) -> tuple[str, ...]:
    """Texts of plain products, shape by shape.

    Args:
        shapes: (M, N, K).
        recipes: their names.
        outs: element or tensor formats of the output.
    """
    return tuple(
        f"gemm:{'x'.join(map(str, shape))}:{name}:{out}"
        for shape in shapes
        for name in recipes
        for out in outs
    )


def by_tokens(layers: Iterable[tuple[int, int]]) -> tuple[tuple[int, int, int], ...]:
    """(M, N, K) of layers (N, K), decoding and prefill."""
    return tuple((m, n, k) for n, k in layers for m in _TOKENS)
