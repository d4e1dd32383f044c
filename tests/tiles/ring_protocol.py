"""The ring of stages of the Hopper products as a state machine, to try every interleaving of it.

Agents are, in each CTA, the thread that loads, the warp that copies scales of blocks, and the
consumers, each as the lanes that arrive at barriers, all warps' at once, and those that only read
scales.  What is loaded lands at any later time.  An mbarrier is PTX's: a phase ends when neither
arrivals nor bytes are pending, a wait passes when the phase of its parity is not under way.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class BrokenProtocol(Exception):
    """Something happens that must not, or nobody can go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """A kernel's protocol, and the launch on which it is tried."""

    stages: int
    steps: int  #: along K, all of a CTA's tiles together
    consumers: int
    cluster: int
    copied: bool  #: scales of blocks, by a warp that arrives when its copies have landed
    full_count: int  #: arrivals of a phase, bytes apart
    empty_count: int
    parities: tuple[int, int]  #: of the first wait for an empty and for a full stage
    everywhere: bool  #: a stage is given back to every CTA of the cluster
    lanes_meet: bool  #: before it is
    held: int  #: stages that a consumer has begun to read before it gives back the first


class Barrier(NamedTuple):
    """An mbarrier; ``loads`` stands for its bytes."""

    phase: int
    pending: int
    loads: int

    def passes(self, parity: int) -> bool:
        return self.phase % 2 != parity

    def after(self, count: int, *, arrivals: int = 0, loads: int = 0) -> "Barrier":
        pending, loads = self.pending - arrivals, self.loads + loads
        if pending < 0:
            raise BrokenProtocol("more arrivals than a phase expects")
        return (
            Barrier(self.phase, pending, loads)
            if pending or loads
            else Barrier(self.phase + 1, count, 0)
        )


class Reader(NamedTuple):
    """A consumer: stages that it has begun to read, whose scales all lanes read, given back."""

    begun: int
    scales: int
    released: int


class Load(NamedTuple):
    """Under way to a stage."""

    step: int
    arrivals: int


class Cta(NamedTuple):
    """What a CTA's barriers, agents and stages have come to."""

    full: tuple[Barrier, ...]
    empty: tuple[Barrier, ...]
    asked: tuple[int, int]  #: steps that the loading thread and the copying warp have asked for
    readers: tuple[Reader, ...]
    loads: tuple[Load, ...]
    landed: tuple[int, ...]  #: loads that have reached each stage, ever


State = tuple[Cta, ...]


def changed(items: tuple, at: int, item: object) -> tuple:  # type: ignore[type-arg]
    return (*items[:at], item, *items[at + 1 :])


def start(ring: Ring) -> State:
    cta = Cta(
        full=(Barrier(0, ring.full_count, 0),) * ring.stages,
        empty=(Barrier(0, ring.empty_count, 0),) * ring.stages,
        asked=(0, 0 if ring.copied else ring.steps),
        readers=(Reader(0, 0, 0),) * ring.consumers,
        loads=(),
        landed=(0,) * ring.stages,
    )
    return (cta,) * ring.cluster


def asks(ring: Ring, state: State, rank: int) -> Iterator[State]:
    """The loading thread and the copying warp wait for a stage and fill it."""
    cta = state[rank]
    for agent, step in enumerate(cta.asked):
        stage, turn = step % ring.stages, step // ring.stages
        if step == ring.steps or not cta.empty[stage].passes((ring.parities[0] + turn) % 2):
            continue
        asked = changed(cta.asked, agent, step + 1)
        if agent == 1:
            load = Load(step, 32)
            yield changed(state, rank, cta._replace(asked=asked, loads=(*cta.loads, load)))
            continue
        full = cta.full[stage].after(ring.full_count, arrivals=1, loads=ring.cluster)
        own = cta._replace(asked=asked, full=changed(cta.full, stage, full))
        ctas = changed(state, rank, own)
        yield tuple(c._replace(loads=tuple(sorted((*c.loads, Load(step, 0))))) for c in ctas)


def lands(ring: Ring, state: State, rank: int) -> Iterator[State]:
    """A load writes its stage."""
    cta = state[rank]
    for load in set(cta.loads):
        stage = load.step % ring.stages
        for reader in cta.readers:
            for step in range(min(reader.released, reader.scales), reader.begun):
                if step % ring.stages == stage:
                    raise BrokenProtocol("a stage is overwritten while it is read")
        full = cta.full[stage].after(
            ring.full_count, arrivals=load.arrivals, loads=-(load.arrivals == 0)
        )
        at = cta.loads.index(load)
        after = cta._replace(
            full=changed(cta.full, stage, full),
            loads=cta.loads[:at] + cta.loads[at + 1 :],
            landed=changed(cta.landed, stage, cta.landed[stage] + 1),
        )
        yield changed(state, rank, after)


def reads(ring: Ring, state: State, rank: int) -> Iterator[State]:
    """A consumer begins a stage, its other lanes read the scales, it gives the oldest back."""
    cta = state[rank]

    def with_reader(reader: Reader, **more: int) -> Cta:
        readers = changed(cta.readers, cta.readers.index(reader), reader._replace(**more))
        return cta._replace(readers=tuple(sorted(readers)))

    for reader in set(cta.readers):
        begun, scales, released = reader
        stage, turn = begun % ring.stages, begun // ring.stages
        ready = begun < min(released + ring.held, ring.steps)
        if ready and cta.full[stage].passes((ring.parities[1] + turn) % 2):
            if cta.landed[stage] != (turn + 1) * (ring.cluster + ring.copied):
                raise BrokenProtocol("a stage is read before it is full")
            yield changed(state, rank, with_reader(reader, begun=begun + 1))
        if scales < begun:
            yield changed(state, rank, with_reader(reader, scales=scales + 1))
        if released < ring.steps and not ready and (scales > released or not ring.lanes_meet):
            ctas = list(changed(state, rank, with_reader(reader, released=released + 1)))
            stage = released % ring.stages
            for other in range(ring.cluster) if ring.everywhere else (rank,):
                empty = ctas[other].empty[stage].after(ring.empty_count, arrivals=4)
                ctas[other] = ctas[other]._replace(empty=changed(ctas[other].empty, stage, empty))
            yield tuple(ctas)


def explore(ring: Ring) -> int:
    """Every state that can be reached; how many there are.

    Raises:
        BrokenProtocol: in one of them something goes wrong, or nothing goes on.
    """
    seen, left = {start(ring)}, [start(ring)]
    while left:
        state = left.pop()
        following = [
            after
            for rank in range(ring.cluster)
            for act in (asks, lands, reads)
            for after in act(ring, state, rank)
        ]
        done = all(r.released == ring.steps for cta in state for r in cta.readers)
        if not following and not done:
            raise BrokenProtocol("nobody can go on")
        for after in following:
            after = tuple(sorted(after))  # the CTAs of a cluster are alike
            if after not in seen:
                seen.add(after)
                left.append(after)
    return len(seen)
