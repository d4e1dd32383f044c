"""Microbenchmarks: small CUDA kernels whose clocks and times become figures of a GPU."""
