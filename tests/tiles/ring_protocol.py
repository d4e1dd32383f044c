"""The ring of stages of the Hopper products as a state machine, to try every interleaving of it.

Agents are, in each CTA, the thread that loads, the warp that copies scales of blocks or makes
factors of them, and the consumers, each as the lanes that arrive at barriers, all warps' at once,
and those that only read scales.  What is loaded lands at any later time.  An mbarrier is PTX's: a
phase ends when neither arrivals nor bytes are pending, a wait passes when the phase of its parity
is not under way.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Factors(NamedTuple):
    """How a warp makes factors of scales, a stage ahead of what it writes, and says so.

    It looks at the codes of some stages.  Parities follow its own count of stages, which is one
    ahead: of a stage's place and of the parity that the loading thread waits for there.
    """

    tile: int  #: steps of a tile, whose end it does not look beyond
    count: int  #: arrivals of a phase of "ready"
    lanes_meet: bool  #: before one says that a stage's factors stand
    full: Callable[[int], int]  #: the parity of its wait for codes, by the parity of its count
    #: and of its wait before that, for the stage to be given back; None: there is none
    returned: Callable[[int], int] | None
    empty: Callable[[int, int], int]  #: and of that for an empty stage, by place and parity
    ready: Callable[[int], int]  #: of the consumers' wait, by that for a full stage


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
    factors: Factors | None = None  #: of accumulators that run on, in place of copied scales


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


class Maker(NamedTuple):
    """The warp that makes factors: in steps."""

    looked: int  #: whose scales it has
    look: int  #: at the codes of the next one: 1 waits for them, 2 reads
    written: int  #: whose factors stand
    said: int  #: of which it has said so


class Cta(NamedTuple):
    """What a CTA's barriers, agents and stages have come to."""

    full: tuple[Barrier, ...]
    empty: tuple[Barrier, ...]
    asked: tuple[int, int]  #: steps that the loading thread and the copying warp have asked for
    readers: tuple[Reader, ...]
    loads: tuple[Load, ...]
    landed: tuple[int, ...]  #: loads that have reached each stage, ever
    ready: tuple[Barrier, ...] = ()
    maker: Maker = Maker(0, 0, 0, 0)


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
        ready=(Barrier(0, ring.factors.count, 0),) * ring.stages if ring.factors else (),
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


def _read(ring: Ring, cta: Cta, stage: int) -> bool:
    """Whether a consumer is at a stage."""
    return any(
        step % ring.stages == stage
        for reader in cta.readers
        for step in range(min(reader.released, reader.scales), reader.begun)
    )


def _is_full(ring: Ring, cta: Cta, step: int) -> bool:
    turn, landed = step // ring.stages, cta.landed[step % ring.stages]
    return landed == (turn + 1) * (ring.cluster + ring.copied)


def makes(ring: Ring, state: State, rank: int) -> Iterator[State]:
    """The warp that makes factors has a stage's scales, with or without a look at its codes; then
    it writes the factors of the stage before and says so."""
    cta, rule, maker = state[rank], ring.factors, state[rank].maker
    if rule is None:
        return
    looked, look, written, said = maker

    def after(**more: int) -> State:
        return changed(state, rank, cta._replace(maker=maker._replace(**more)))

    def prepared(step: int) -> bool:
        """Whether it has the scales that this step's factors take."""
        return looked >= min(step + 2, (step // rule.tile + 1) * rule.tile, ring.steps)

    def parity(count: int) -> int:
        return (ring.parities[0] + count // ring.stages) % 2

    ahead = (written + 1) % ring.stages, parity(written + 1)
    may_write = prepared(written) and cta.empty[written % ring.stages].passes(rule.empty(*ahead))
    if look == 2:
        yield after(looked=looked + 1, look=0)
    elif look == 1:
        place, own = looked % ring.stages, parity(looked)
        returned = rule.returned is None or cta.empty[place].passes(rule.returned(own))
        if returned and cta.full[place].passes(rule.full(own)):
            if not _is_full(ring, cta, looked):
                raise BrokenProtocol("a stage is looked at before it is full")
            yield after(look=2)
    elif written == said < ring.steps and not prepared(said):
        yield after(looked=looked + 1)
        yield after(look=1)
    if written <= said and written < ring.steps and may_write:
        if _read(ring, cta, written % ring.stages):
            raise BrokenProtocol("factors are overwritten while they are read")
        yield after(written=written + 1)
    if written > said or (written == said < ring.steps and may_write and not rule.lanes_meet):
        stage = said % ring.stages
        ready = changed(cta.ready, stage, cta.ready[stage].after(rule.count, arrivals=1))
        yield changed(state, rank, cta._replace(ready=ready, maker=maker._replace(said=said + 1)))


def lands(ring: Ring, state: State, rank: int) -> Iterator[State]:
    """A load writes its stage."""
    cta = state[rank]
    for load in set(cta.loads):
        stage = load.step % ring.stages
        looked_at = cta.maker.look == 2 and cta.maker.looked % ring.stages == stage
        if looked_at or _read(ring, cta, stage):
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
        parity = (ring.parities[1] + turn) % 2
        stands = ring.factors is None or cta.ready[stage].passes(ring.factors.ready(parity))
        if ready and stands and cta.full[stage].passes(parity):
            if not _is_full(ring, cta, begun):
                raise BrokenProtocol("a stage is read before it is full")
            if ring.factors and not begun < cta.maker.written <= begun + ring.stages:
                raise BrokenProtocol("a stage is read before its factors stand")
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
            for act in (asks, makes, lands, reads)
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
