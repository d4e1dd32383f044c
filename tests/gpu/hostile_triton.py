"""Triton kernels that misbehave; imported in the measuring process alone."""

import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def fine(x_ptr, out_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < count)
    tl.store(out_ptr + at, 2.0 * x + 1.0, mask=at < count)


@triton.jit
def loop(x_ptr, out_ptr, count, BLOCK: tl.constexpr):
    """Waits for a value that nobody writes."""
    seen = tl.load(x_ptr, volatile=True)
    while seen < 1e30:
        seen = tl.load(x_ptr, volatile=True)
    tl.store(out_ptr, seen)


@triton.jit
def illegal(x_ptr, out_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    far = at.to(tl.int64) + (1 << 40)
    tl.store(out_ptr + far, 1.0)


@triton.jit
def does_not_compile(x_ptr, out_ptr, count, BLOCK: tl.constexpr):
    one = tl.load(x_ptr + tl.arange(0, BLOCK))
    other = tl.load(x_ptr + tl.arange(0, 2 * BLOCK))
    tl.store(out_ptr + tl.arange(0, BLOCK), one + other)


@triton.jit
def too_much_memory(x_ptr, out_ptr, count, BLOCK: tl.constexpr):
    """A product whose operands take half a megabyte of shared memory."""
    row, depth = tl.arange(0, 64), tl.arange(0, 512)
    at = row[:, None] * 512 + depth[None, :]
    total = tl.zeros((64, 64), tl.float32)
    for step in tl.range(0, count, 512, num_stages=4):
        a = tl.load(x_ptr + at + step).to(tl.float16)
        b = tl.load(x_ptr + at + 2 * step).to(tl.float16)
        total = tl.dot(a, tl.trans(b), total)
    tl.store(out_ptr + row[:, None] * 64 + row[None, :], total)
