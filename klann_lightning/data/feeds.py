"""What a training step is fed: which pieces of which recordings, in which order.

A feed is a pure function of (lengths, seed, epoch): it plans batches in whole numbers and reads no
audio, so any run can be repeated and any epoch found again. Its batches are those of the whole training;
the ranks of a distributed one share out the rows of each.
"""

import math
import random
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import ClassVar, NamedTuple

from klann_lightning.errors import ConfigError, PairError


class Cut(NamedTuple):
    """One row of a batch."""

    pair: int  # index of the recording
    start: int  # first sample; before the file's start there are zeros
    fresh: bool  # starts from the initial state, not from where the same row of the batch before ended
    weight: float = 1.0  # of this row in the loss


class BatchPlan(NamedTuple):
    """The rows of a batch, all `frames` long; the first `skip` samples are fed but not scored."""

    cuts: Sequence[Cut]
    frames: int
    skip: int = 0
    last: bool = True  # the recordings end here
    rows: int = 1  # of a batch that is shared out, on all ranks together


class Feed(ABC):
    """Plans the batches of an epoch. Lengths and places are in samples."""

    more_rows: ClassVar[str | None] = None  # how, in words; without it, each rank may see all of too few rows

    @abstractmethod
    def batches(self, lengths: Sequence[int]) -> int:
        """Batches an epoch."""

    @abstractmethod
    def plan(self, lengths: Sequence[int], seed: int, epoch: int) -> Iterator[BatchPlan]:
        """The batches of an epoch, over recordings of the given lengths in samples."""

    def share(
        self, lengths: Sequence[int], seed: int, epoch: int, rank: int, world: int
    ) -> Iterator[BatchPlan]:
        """What one of `world` ranks sees of them: every `world`-th row of each, from the `rank`-th on."""
        for plan in self.plan(lengths, seed, epoch):
            rows = len(plan.cuts)
            if rows >= world:
                yield plan._replace(cuts=plan.cuts[rank::world], rows=rows)
            elif self.more_rows is None:
                yield plan._replace(rows=rows * world)
            else:
                raise ConfigError(
                    f"a batch of {type(self).__name__} has {rows} rows, fewer than the {world} devices that "
                    f"share them out: {self.more_rows}, or set trainer.devices to {rows} at most"
                )


class Readers(Feed):
    """Parallel readers through the recordings, the model's state carried from batch to batch.

    Every sample is scored and no warm-up is spent. A reader that reaches a recording's end starts the
    next one from the initial state, at a random place in the silence before it, at most one and a half
    `length` early. The first two batches of a recording see its opening, and have a small weight: what
    the device had heard before is not in the file. Where it had heard nothing, give them the full one.
    """

    more_rows = "raise readers"

    def __init__(
        self, readers: int = 8, length: int = 8192, batches_per_epoch: int = 50, opening_weight: float = 0.1
    ) -> None:
        """Sizes of a batch, on all devices together.

        Args:
            readers: rows of a batch.
            length: samples a reader moves on from batch to batch.
            batches_per_epoch: batches between two chances of a validation.
            opening_weight: weight of a row that sees a recording's opening.
        """
        if min(readers, length, batches_per_epoch) < 1:
            raise ConfigError("readers, length and batches_per_epoch must be at least 1")
        self.readers = readers
        self.length = length
        self.batches_per_epoch = batches_per_epoch
        self.opening_weight = opening_weight

    def batches(self, lengths: Sequence[int]) -> int:
        """As configured, whatever the lengths."""
        return self.batches_per_epoch

    def plan(self, lengths: Sequence[int], seed: int, epoch: int) -> Iterator[BatchPlan]:
        """Every reader goes on by one `length` a batch. Raises PairError for too short a recording."""
        _refuse_short(lengths, self.length)
        visits = [length // self.length + 1 for length in lengths]  # batches spent in each recording
        starts = [0, *accumulate(visits)]
        cycle = starts[-1]
        for step in range(epoch * self.batches_per_epoch, (epoch + 1) * self.batches_per_epoch):
            cuts = []
            for reader in range(self.readers):
                lap, place = divmod(step + reader * cycle // self.readers, cycle)
                pair = bisect_right(starts, place) - 1
                visited = place - starts[pair]
                least = visits[pair] * self.length - lengths[pair]  # then the last batch ends with the file
                jitter = random.Random(f"{seed} {reader} {lap} {pair}").randint(0, self.length // 2)
                fresh = visited == 0 or step == 0
                weight = self.opening_weight if fresh or visited == 1 else 1.0
                cuts.append(Cut(pair, visited * self.length - least - jitter, fresh, weight))
            yield BatchPlan(cuts, self.length)


class Segments(Feed):
    """Independent segments, each after a warm-up from the initial state that is fed but not scored.

    On a grid (`hop`), every place once an epoch in random order; or, without `hop`, at random places.
    The paper's: 1024 scored after 31744 of warm-up, hop 1024, batch 50.
    """

    more_rows = "raise batch, or lower hop where the recordings hold no more places"

    def __init__(
        self,
        length: int = 8192,
        warmup: int = 8192,
        batch: int = 8,
        hop: int | None = None,
        batches_per_epoch: int | None = None,
    ) -> None:
        """Sizes of a batch, on all devices together.

        Args:
            length: scored samples of a segment.
            warmup: samples fed before them.
            batch: segments a batch.
            hop: samples between the grid's places; random places without it.
            batches_per_epoch: with random places only; by default as many as cover the recordings once.
        """
        sizes = [size for size in (length, batch, hop, batches_per_epoch) if size is not None]
        if min(sizes) < 1 or warmup < 0:
            raise ConfigError(
                "length, batch, hop and batches_per_epoch must be at least 1, warmup at least 0"
            )
        self.length = length
        self.warmup = warmup
        self.batch = batch
        self.hop = hop
        self.batches_per_epoch = None if hop else batches_per_epoch

    def batches(self, lengths: Sequence[int]) -> int:
        """As configured; else as many as there are whole batches of segments."""
        segments = sum((length - self.length) // (self.hop or self.length) + 1 for length in lengths)
        return self.batches_per_epoch or max(1, segments // self.batch)

    def plan(self, lengths: Sequence[int], seed: int, epoch: int) -> Iterator[BatchPlan]:
        """In an order that seed and epoch decide. Raises PairError for too short a recording."""
        _refuse_short(lengths, self.length)
        count = self.batches(lengths) * self.batch
        order = random.Random(f"{seed} {epoch}")
        places = [length - self.length + 1 for length in lengths]
        if self.hop:
            grid = [(pair, start) for pair, end in enumerate(places) for start in range(0, end, self.hop)]
            order.shuffle(grid)
        else:
            pairs = order.choices(range(len(places)), weights=places, k=count)
            grid = [(pair, order.randrange(places[pair])) for pair in pairs]
        seen = grid[:count]
        for first in range(0, len(seen), self.batch):
            rows = seen[first : first + self.batch]
            cuts = [Cut(pair, start - self.warmup, fresh=True) for pair, start in rows]
            yield BatchPlan(cuts, self.warmup + self.length, skip=self.warmup)


class FullBatch(Feed):
    """All the recordings in one batch, the same at every step: what L-BFGS needs.

    They are cut into rows of equal length, each fed after a warm-up from the initial state; a recording's
    opening is warm-up alone. With one recording, one row and no warm-up it is the recording from its first
    sample to its last, and the gradient goes through all of it, which teaches releases of seconds. Memory
    grows with the samples, so of more than `samples` only evenly spread rows are seen. Of fewer rows than
    ranks each rank sees all: every sum of the loss then counts them alike, and the loss is the same.
    """

    def __init__(self, rows: int = 8, warmup: int = 8192, samples: int = 2**20, rounds: int = 1) -> None:
        """Sizes of the batch, on all devices together.

        Args:
            rows: that the recordings are cut into; more where one of them is shorter than such a row.
            warmup: samples fed before each row, not scored.
            samples: at most so many are scored, all rows together.
            rounds: steps an epoch.
        """
        if min(rows, samples // max(1, rows), rounds) < 1 or warmup < 0:
            raise ConfigError(
                "rows, samples a row and rounds must be at least 1, warmup at least 0, "
                f"not {rows}, {samples} in all, {rounds} and {warmup}"
            )
        self.rows = rows
        self.warmup = warmup
        self.samples = samples
        self.rounds = rounds

    def batches(self, lengths: Sequence[int]) -> int:
        """One for every round."""
        return self.rounds

    def plan(self, lengths: Sequence[int], seed: int, epoch: int) -> Iterator[BatchPlan]:
        """The same batch at every step of every epoch. Raises PairError for too short a recording."""
        _refuse_short(lengths, self.warmup + 1)
        scored = [length - self.warmup for length in lengths]
        seen = min(1.0, self.samples / sum(scored))  # as a part of all
        frames = min(math.ceil(seen * sum(scored) / self.rows), *scored)
        cuts = []
        for pair, length in enumerate(scored):
            rows = math.ceil(seen * length / frames)
            apart = (length - frames) / max(1, rows - 1)
            cuts += [Cut(pair, round(row * apart), fresh=True) for row in range(rows)]
        for _ in range(self.rounds):
            yield BatchPlan(cuts, self.warmup + frames, skip=self.warmup)


def whole_files(
    lengths: Sequence[int], context: int, block: int, rank: int, world: int
) -> Iterator[BatchPlan]:
    """Every recording of this rank from start to end, in consecutive blocks of one row.

    The first `context` samples are fed but not scored; the first block holds them and at least a block
    more. All but the last are whole multiples of `block`, for models that work on several samples at once.
    A rank without a recording gets one empty block: every rank must take part in every validation.
    """
    if rank >= len(lengths):
        yield BatchPlan([Cut(0, 0, fresh=True)], frames=0)
    for pair in range(rank, len(lengths), world):
        start, end = 0, min((-(-context // block) + 1) * block, lengths[pair])
        while start < end:
            cut = Cut(pair, start, fresh=start == 0)
            yield BatchPlan([cut], end - start, max(0, context - start), last=end == lengths[pair])
            start, end = end, min(end + block, lengths[pair])


def _refuse_short(lengths: Sequence[int], needed: int) -> None:
    if min(lengths) < needed:
        raise PairError(
            f"a training recording is {min(lengths)} samples long, shorter than the {needed} that a step "
            "is fed. Leave it out, or lower the feed's length."
        )
