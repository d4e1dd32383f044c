"""How the clusters of the row operators cover a matrix, and what their CTAs keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from . import dataflow_arguments as arguments

__all__ = ["Geometry", "geometry"]

#: Two row groups are kept where the CTAs that an SM should hold take at most that much together.
STAGES_BYTES = 216 * 1024
#: Floats that the two barriers of a CTA take.
BARRIERS = 4
#: Lanes of a warp, bytes of a line of memory.
WARP, LINE = 32, 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How clusters cover a matrix."""

    row_groups: int  #: of ``rows`` rows each
    clusters: int  #: that walk through them, or one for each
    steps: int  #: of a CTA along its share of the columns
    column_steps: int  #: times that backward's threads go across a CTA's share, 4 columns each
    beside: int  #: blocks that threads share, see :func:`dataflow_arguments.beside`
    stages: int  #: row groups whose codes a CTA keeps
    smem_bytes: int  #: dynamic, of a CTA
    walks: bool  #: some cluster has more than one row group
    lined: bool  #: warps have blocks to themselves and move whole lines of memory
    exact: bool  #: no row, column or step of any CTA lies outside the matrix


def geometry(
    *,
    op: str,
    shape: tuple[int, int],
    block: tuple[int, int],
    config: Mapping[str, int | bool],
) -> Geometry:
    """Work out how a configuration covers a matrix; both are taken as fitting."""
    threads, lanes, rows = (int(config[name]) for name in ("threads", "lanes", "rows"))
    groups, down = threads // lanes, rows // block[0]
    across = -(-shape[1] // block[1])
    share = -(-across // int(config["splits"]))
    steps = -(-share // (groups // down))
    row_groups = -(-shape[0] // rows)
    backward, keeps = op.endswith("-bwd"), op != "residual"
    kept = keeps + backward
    codes = kept * steps * (block[0] * block[1] // lanes) * threads
    across = groups // down
    line = lanes == WARP <= block[0] * block[1] // arguments.VECTOR and block[1] < LINE
    fits = shape[0] % rows == 0 and shape[1] % (int(config["splits"]) * across * LINE) == 0
    lined = line and down == 1 and fits
    if lined and not keeps:  # a warp's two tiles of both addends, in half lines
        codes = 2 * block[0] * LINE * groups
    columns = (keeps + (op == "layernorm")) * steps * across * block[1]
    scales = 2 * kept * steps * groups
    beside = 1 if lined else arguments.beside(block, lanes, across)
    sums = (threads // 16 if backward else 4 * across // beside) * rows
    peaks = 2 * beside * threads // 32
    clusters, ctas = int(config["clusters"]), int(config["ctas"])
    clusters = min(clusters, row_groups) if backward or clusters > 1 else row_groups
    parities = 2 if clusters < row_groups else 1
    shares = int(config["splits"]) * (1 if op == "rmsnorm-bwd" else 2)
    exchanged = (parities * (shares + 2) + 4 * backward) * rows + BARRIERS
    floats = columns + scales + sums + exchanged + peaks
    roomy = ctas * (2 * codes + 4 * floats) <= STAGES_BYTES
    stages = 2 if keeps and (backward or int(config["clusters"]) > 1) and roomy else 1
    return Geometry(
        row_groups=row_groups,
        clusters=clusters,
        steps=steps,
        column_steps=-(-share * block[1] // (4 * threads)) if backward else 1,
        beside=beside,
        stages=stages,
        smem_bytes=stages * codes + 4 * floats,
        walks=parities > 1,
        lined=lined,
        exact=shape[0] % rows == 0
        and shape[1] % (block[1] * int(config["splits"]) * across * steps) == 0,
    )
