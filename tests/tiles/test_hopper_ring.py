"""No interleaving of ``gemm_hopper_blocks.cu``'s agents overwrites what is read, or stands still.

Its protocol is read off its text: what its barriers count, the parities both sides begin with, the
CTAs that a stage is given back to, whether lanes meet before, how many stages are read at once.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ring_protocol import BrokenProtocol, Factors, Ring, explore

from tiles.kernels.cuda import gemm_hopper_blocks
from tiles.kernels.cuda.modules import read_source

TEXT = read_source(Path(gemm_hopper_blocks.__file__).with_suffix(".cu"))
#: Three phases of two stages: a wait for the wrong phase has the parity of the right one.
PLAIN = {"copied": False, "slots": 2, "stages": 2, "steps": 5, "consumers": 2, "cluster": 1}


def ring_of(
    text: str, *, copied: bool, slots: int, stages: int, steps: int, consumers: int, cluster: int
) -> Ring:
    """The protocol in the kernel's text.

    Args:
        copied: scales of blocks; ``slots``: pieces that a consumer has accumulators for.
    """
    counts = re.search(
        r"init_ring\(full_bar, empty_bar, VECTOR \|\| RUN > 1 \? (.+) : (.+), (.+)\);", text
    )
    parities = re.findall(r"u32 phase = (\d)", text)
    release = re.search(r"void release_stage\(.*?\n}", text, re.DOTALL)
    assert counts is not None
    assert release is not None
    values = {"CONSUMERS": consumers, "CLUSTER": cluster, "__builtins__": {}}
    of_rows, of_blocks, empty = (int(eval(expression, values)) for expression in counts.groups())
    loop = text[text.index("auto promote_next") :]
    ahead = slots > 1 and loop.index("await_stage()") < loop.index("release_oldest()")
    return Ring(
        stages=stages,
        steps=steps,
        consumers=consumers,
        cluster=cluster,
        copied=copied,
        full_count=of_blocks if copied else of_rows,
        empty_count=empty,
        parities=(int(parities[0]), int(parities[1])),
        everywhere="if (lane < CLUSTER) barrier_arrive_at(" in release[0],
        lanes_meet=bool(re.search(r"__syncwarp\(\);[^\n]*\n *release_stage\(", text)),
        held=2 if ahead else 1,
    )


#: Two tiles, and four phases of a stage.
RUNNING = {"copied": False, "slots": 4, "stages": 3, "steps": 10, "consumers": 1, "cluster": 1}


def running(text: str = TEXT, *, tile: int = 5, **changed: Any) -> Ring:
    """The protocol in the kernel's text where accumulators run on over units."""
    wait = r"barrier_wait\({}_bar \+ {} \* 8, (.+)\);"
    full = re.search(r"scales\.advance\(more, stage, (.+)\);", text)
    returned = re.search(wait.format("empty", "stage").replace("(.+)", r"phase (\S+ \d)"), text)
    empty = re.search(wait.format("empty", "last"), text)
    ready = re.search(wait.format("ready", "stage"), text)
    count = re.search(r"barrier_init\(ready_bar \+ threadIdx\.x \* 8, (\d+)\);", text)
    assert full is not None
    assert empty is not None
    assert ready is not None
    assert count is not None
    otherwise = re.fullmatch(r"(.+) \? (.+) : (.+)", empty[1])
    chosen = "{1} if {0} else {2}".format(*otherwise.groups()) if otherwise else empty[1]

    def parity(expression: str, **values: int) -> int:
        return int(eval(expression, {"__builtins__": {}}, values))

    factors = Factors(
        tile=tile,
        count=int(count[1]),
        lanes_meet=bool(re.search(r"scales\.write\(.*;\s*__syncwarp\(\);\s*if", text)),
        full=lambda phase: parity(full[1], phase=phase),
        # It is called with the parity of its wait for codes.
        returned=returned
        and (lambda phase: parity(f"phase {returned[1]}", phase=parity(full[1], phase=phase))),
        empty=lambda stage, phase: parity(chosen, stage=stage, phase=phase),
        ready=lambda phase: parity(ready[1], phase=phase),
    )
    return replace(ring_of(text, **(RUNNING | changed)), factors=factors)


def protocol(text: str = TEXT, **changed: Any) -> Ring:
    return ring_of(text, **(PLAIN | changed))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"slots": 1},
        {"copied": True, "slots": 4},
        {"copied": True, "slots": 1},
        {"consumers": 4, "slots": 4},
        {"consumers": 1, "cluster": 2},
        pytest.param({"consumers": 4, "copied": True, "slots": 4}, marks=pytest.mark.slow),
        pytest.param({"stages": 3, "steps": 7, "copied": True}, marks=pytest.mark.slow),
        pytest.param({"cluster": 2}, marks=pytest.mark.slow),
        pytest.param(
            {"cluster": 2, "copied": True, "consumers": 1, "steps": 4}, marks=pytest.mark.slow
        ),
    ],
    ids=str,
)
def test_every_interleaving_ends_with_every_stage_read(changed: dict[str, Any]) -> None:
    ring = protocol(**changed)
    assert (ring.held, ring.everywhere, ring.lanes_meet) == (1 + (changed.get("slots") != 1), 1, 1)
    assert explore(ring) > 100


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"tile": 1, "steps": 7},
        {"stages": 4, "steps": 9, "tile": 9},
        pytest.param({"consumers": 2, "steps": 8, "tile": 4}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_runs_look_at_codes_and_write_factors_in_any_order(changed: dict[str, Any]) -> None:
    assert explore(running(**changed)) > 100


def test_runs_need_three_stages() -> None:
    """Factors of a stage are written when the next one's codes are there."""
    with pytest.raises(BrokenProtocol, match="nobody can go on"):
        explore(running(stages=2))


#: Of runs: what stands in the place of what, and what happens then.
FAULTS_OF_RUNS = {
    "a look at codes of the phase before": (
        "advance(more, stage, phase ^ 1)", "advance(more, stage, phase)",
        "looked at before|nobody can go on",
    ),
    "a look at codes while those before are on their way": (
        "barrier_wait(empty_bar + stage * 8, phase ^ 1);", "", "looked at before",
    ),
    "factors written too early": (
        "stage == 0 ? phase ^ 1 : phase", "stage == 0 ? phase : phase ^ 1",
        "factors are overwritten|nobody can go on",
    ),
    "factors of the first stage of a round too early": (
        "stage == 0 ? phase ^ 1 : phase", "phase", "factors are overwritten|nobody can go on",
    ),
    "consumers that do not wait for factors": (
        "barrier_wait(ready_bar + stage * 8, phase)", "barrier_wait(ready_bar + stage * 8, 1)",
        "before its factors|nobody",
    ),
    "every lane says that factors stand": (
        "barrier_init(ready_bar + threadIdx.x * 8, 1)",
        "barrier_init(ready_bar + threadIdx.x * 8, 32)", "nobody can go on",
    ),
    "lanes that do not meet": (
        "scales.write(scale_ring + last * SCALE_BYTES, step, more);\n"
        "                        __syncwarp();",
        "scales.write(scale_ring + last * SCALE_BYTES, step, more);", "before its factors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS_OF_RUNS)
def test_a_fault_of_the_runs_is_found(fault: str) -> None:
    before, after, message = FAULTS_OF_RUNS[fault]
    assert before in TEXT
    with pytest.raises(BrokenProtocol, match=message):
        explore(running(TEXT.replace(before, after, 1)))


#: Faults of the text: what stands in its place, where it shows, and what happens there.
FAULTS = {
    "a full ring at the beginning": ("u32 phase = 1;", "u32 phase = 0;", {}, "nobody can go on"),
    "a first wait for the phase before": (
        "u32 phase = 0, a_tile", "u32 phase = 1, a_tile", {}, "before it is full",
    ),
    "a stage given back by the first consumer": (
        "CONSUMERS * 4 * CLUSTER", "4 * CLUSTER", {}, "overwritten|nobody can go on",
    ),
    "a neighbour's consumers left out": (
        "CONSUMERS * 4 * CLUSTER", "CONSUMERS * 4", {"consumers": 1, "cluster": 2}, "overwritten",
    ),
    "copied scales left out": ("1 : 1 + 32", "1 : 1", {"copied": True}, "a stage|more arrivals"),
    "lanes that do not meet": ("__syncwarp();  // every lane", "// every lane", {}, "overwritten"),
    "a stage given back to its own CTA": (
        "if (lane < CLUSTER) barrier_arrive_at(", "if (lane == 0) barrier_arrive(",
        {"consumers": 1, "cluster": 2}, "nobody can go on",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_text_is_found(fault: str) -> None:
    before, after, changed, message = FAULTS[fault]
    assert before in TEXT
    with pytest.raises(BrokenProtocol, match=message):
        explore(protocol(TEXT.replace(before, after, 1), **changed))


def test_more_stages_in_hand_than_there_are_is_found() -> None:
    with pytest.raises(BrokenProtocol, match="nobody can go on"):
        explore(replace(protocol(), held=3))
