"""What legality needs of an H200 and an A100, written out: these tests read no GPU file."""

from dataclasses import replace

from tiles.kernels import Limits

H200 = Limits(
    gpu="h200",
    vendor="nvidia",
    capability=90,
    smem_bytes_per_cta=232448,
    registers_per_sm=65536,
    threads_per_sm=2048,
    warp_threads=32,
    native_elements=frozenset({"bf16", "fp16", "e4m3fn", "e5m2", "int8"}),
    features=frozenset({"tma", "wgmma"}),
)
A100 = replace(
    H200,
    gpu="a100",
    capability=80,
    smem_bytes_per_cta=166912,
    native_elements=frozenset({"bf16", "fp16", "int8"}),
    features=frozenset(),
)
