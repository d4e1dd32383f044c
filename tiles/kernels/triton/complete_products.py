"""Products whose first operand lies in registers, complete before those are written again."""

import triton
import triton.language as tl

__all__ = ["complete"]


@triton.jit
def complete(acc):
    """The fp32 sums, once the products that they are the sums of are complete; no instruction.

    Triton lets ``wgmma`` run on into the next pass of a loop unless the pass itself uses what comes
    out.  It heeds the shared memory that is read meanwhile, not the registers (3.6 and 3.7): the
    next pass writes an operand while products still read it, which PTX leaves undefined.  ptxas
    then waits behind every single product, or does not notice and gives the registers away.
    """
    return tl.inline_asm_elementwise("", "=r,0", [acc], dtype=tl.float32, is_pure=True, pack=1)
