"""Plans in whole numbers: what is covered, in which order, on which rank."""

from itertools import pairwise

import pytest

from klann_lightning.data.feeds import Cut, FullBatch, Readers, Segments, whole_files
from klann_lightning.errors import ConfigError, PairError


def plans(feed, lengths, seed=0, epoch=0, rank=0, world=1):
    return list(feed.share(lengths, seed, epoch, rank, world))


@pytest.mark.parametrize(("rank", "world"), [(0, 1), (1, 2)])
def test_readers_go_on_where_they_stopped(rank, world):
    feed = Readers(readers=5, length=10, batches_per_epoch=40)
    before = None
    for plan in plans(feed, [203, 177], rank=rank, world=world):
        for row, cut in enumerate(plan.cuts):
            if not cut.fresh:
                assert cut.pair == before[row].pair
                assert cut.start == before[row].start + 10
        before = plan.cuts


def test_readers_stay_within_their_recording_and_reach_all_of_it():
    lengths = [203, 177]
    feed = Readers(readers=2, length=10, batches_per_epoch=2000)
    seen = [set(), set()]
    for plan in plans(feed, lengths):
        for cut in plan.cuts:
            assert -1.5 * plan.frames <= cut.start <= lengths[cut.pair] - plan.frames
            seen[cut.pair].update(range(max(0, cut.start), cut.start + plan.frames))
    assert [len(samples) for samples in seen] == lengths


def test_a_reader_starts_anew_at_every_recording_with_little_weight():
    feed = Readers(readers=1, length=10, batches_per_epoch=100, opening_weight=0.1)
    cuts = [plan.cuts[0] for plan in plans(feed, [63, 57])]
    turns = [index for index in range(1, 97) if cuts[index].pair != cuts[index - 1].pair]
    assert len(turns) > 5
    for index in turns:
        first, second, third = cuts[index : index + 3]
        assert first.fresh
        assert -15 <= first.start < 0
        assert (first.weight, second.weight, third.weight) == (0.1, 0.1, 1.0)
    assert sum(cut.fresh for cut in cuts[1:97]) == len(turns)


def test_readers_start_spread_over_the_recordings():
    first = plans(Readers(readers=4, length=10, batches_per_epoch=1), [4000])[0]
    starts = [cut.start for cut in first.cuts]
    assert starts == sorted(starts)
    assert min(b - a for a, b in pairwise(starts)) > 900
    assert all(cut.fresh for cut in first.cuts)


def test_an_epoch_goes_on_from_the_one_before():
    long, short = Readers(2, 10, batches_per_epoch=30), Readers(2, 10, batches_per_epoch=10)
    joined = [plan for epoch in range(3) for plan in plans(short, [500, 70], epoch=epoch)]
    assert joined == plans(long, [500, 70])


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize(
    "feed",
    [
        Readers(readers=7, length=10, batches_per_epoch=40),
        Segments(length=10, warmup=5, batch=7, hop=10),
        Segments(length=10, warmup=5, batch=7, batches_per_epoch=9),
        FullBatch(rows=7, warmup=5, rounds=2),
    ],
    ids=["readers", "grid", "random", "full"],
)
def test_ranks_share_out_the_rows_of_every_batch(feed, world):
    """Each row is on one rank, in numbers that differ by one at most; all else is the same."""
    lengths = [333, 200]
    for epoch in range(2):
        whole = list(feed.plan(lengths, 0, epoch))
        assert len(whole) == feed.batches(lengths)
        shares = [plans(feed, lengths, epoch=epoch, rank=rank, world=world) for rank in range(world)]
        for batch, *parts in zip(whole, *shares, strict=True):
            assert sorted(cut for part in parts for cut in part.cuts) == sorted(batch.cuts)
            sizes = [len(part.cuts) for part in parts]
            assert max(sizes) - min(sizes) <= 1
            rows = len(batch.cuts)
            assert all(part == batch._replace(cuts=part.cuts, rows=rows) for part in parts)


@pytest.mark.parametrize(
    ("feed", "said"),
    [
        (Readers(readers=8, length=10), "Readers has 8 rows, .* 16 devices .*: raise readers, or .* to 8 at"),
        (Segments(length=10, batch=2), "Segments has 2 rows, .* 16 devices .*: raise batch, or lower hop"),
    ],
    ids=["readers", "segments"],
)
def test_a_batch_of_fewer_rows_than_devices_is_refused(feed, said):
    with pytest.raises(ConfigError, match=said):
        plans(feed, [500], rank=3, world=16)


def test_of_a_full_batch_of_fewer_rows_than_ranks_each_sees_all():
    feed = FullBatch(rows=2, warmup=0)
    (whole,) = feed.plan([50], 0, 0)
    assert [plans(feed, [50], rank=rank, world=3) for rank in range(3)] == [[whole._replace(rows=6)]] * 3


def test_the_grid_is_covered_once_an_epoch_in_an_order_of_its_own():
    feed = Segments(length=10, warmup=30, batch=4, hop=10)
    epochs = [
        [cut for plan in plans(feed, [160, 80], epoch=epoch) for cut in plan.cuts] for epoch in range(2)
    ]
    expected = {(0, start - 30) for start in range(0, 151, 10)} | {
        (1, start - 30) for start in range(0, 71, 10)
    }
    assert all({(cut.pair, cut.start) for cut in cuts} == expected for cuts in epochs)
    assert all(len(cuts) == len(expected) for cuts in epochs)
    assert epochs[0] != epochs[1]


def test_segments_are_fresh_and_their_warmup_is_not_scored():
    plan = plans(Segments(length=10, warmup=30, batch=2), [100])[0]
    assert (plan.frames, plan.skip) == (40, 30)
    assert all(cut.fresh and -30 <= cut.start <= 100 - 40 for cut in plan.cuts)


def test_random_places_reach_both_ends_and_differ_by_epoch():
    feed = Segments(length=10, warmup=0, batch=50, batches_per_epoch=20)
    starts = [
        [cut.start for plan in plans(feed, [60], epoch=epoch) for cut in plan.cuts] for epoch in range(2)
    ]
    assert set(starts[0]) == set(range(51))
    assert starts[0] != starts[1]


def test_the_papers_grid_has_the_papers_numbers():
    feed = Segments(length=1024, warmup=31744, batch=50, hop=1024)
    assert feed.batches([44100 * 7]) == 44100 * 7 // 1024 // 50
    assert plans(feed, [44100 * 7])[0].frames == 32768


def test_a_feed_repeats_with_its_seed_only():
    feed = Readers(2, 10, 50)
    assert plans(feed, [90, 80], seed=1) == plans(feed, [90, 80], seed=1)
    assert plans(feed, [90, 80], seed=1) != plans(feed, [90, 80], seed=2)


@pytest.mark.parametrize(("context", "block"), [(0, 10), (25, 10), (25, 1000), (7, 93)])
def test_whole_files_are_whole_and_score_all_but_the_context(context, block):
    lengths = [100, 57, 93]
    scored = [[], [], []]
    fed = [[], [], []]
    for plan in whole_files(lengths, context, block, rank=0, world=1):
        (cut,) = plan.cuts
        assert cut.fresh == (cut.start == 0)
        assert plan.last == (cut.start + plan.frames == lengths[cut.pair])
        fed[cut.pair] += range(cut.start, cut.start + plan.frames)
        scored[cut.pair] += range(cut.start + plan.skip, cut.start + plan.frames)
    for index, length in enumerate(lengths):
        assert fed[index] == list(range(length))
        assert scored[index] == list(range(context, length))


@pytest.mark.parametrize("context", [0, 1, 127, 128, 129, 44100])
@pytest.mark.parametrize("block", [128, 1024])
def test_whole_files_are_read_in_multiples_of_a_block(context, block):
    """But for the last one; and the first, which holds the context, scores a block at least."""
    (first, *others), length = list(whole_files([100_001], context, block, rank=0, world=1)), 100_001
    assert first.skip == context
    assert block <= first.frames - context < 2 * block
    assert all(plan.skip == 0 for plan in others)
    assert first.frames % block == 0
    assert {plan.frames for plan in others[:-1]} == {block}
    assert 0 < others[-1].frames <= block
    assert first.frames + sum(plan.frames for plan in others) == length


def test_whole_files_are_shared_out_by_file():
    shares = [[plan.cuts[0].pair for plan in whole_files([30] * 5, 0, 10, rank, 2)] for rank in range(2)]
    assert shares == [[0, 0, 0, 2, 2, 2, 4, 4, 4], [1, 1, 1, 3, 3, 3]]


def test_a_full_batch_covers_every_sample_after_the_opening():
    (plan,) = plans(FullBatch(rows=4, warmup=7), lengths := [107, 57, 207])
    seen = {(cut.pair, cut.start + place) for cut in plan.cuts for place in range(plan.skip, plan.frames)}
    assert seen == {(pair, place) for pair, end in enumerate(lengths) for place in range(7, end)}
    assert all(cut.start >= 0 and cut.start + plan.frames <= lengths[cut.pair] for cut in plan.cuts)
    assert (plan.skip, plan.frames) == (7, 57)  # no row is longer than the shortest recording


def test_a_full_batch_of_one_row_is_the_recording():
    (plan,) = plans(FullBatch(rows=1, warmup=0), [107])
    assert (plan.cuts, plan.frames, plan.skip) == ([Cut(0, 0, fresh=True)], 107, 0)


def test_a_full_batch_of_long_recordings_is_spread_over_them():
    (plan,) = plans(FullBatch(rows=4, warmup=10, samples=400), [6010, 2010])
    assert plan.frames == 110
    assert [(cut.pair, cut.start) for cut in plan.cuts] == [(0, 0), (0, 2950), (0, 5900), (1, 0)]


def test_a_full_batch_is_the_same_at_every_step():
    feed = FullBatch(rows=3, warmup=0, rounds=2)
    first, second = plans(feed, [50])
    assert first == second == plans(feed, [50], epoch=4)[0]


def test_a_rank_without_a_file_gets_an_empty_block():
    (plan,) = whole_files([30], 0, 10, rank=1, world=2)
    assert plan.frames == 0


@pytest.mark.parametrize("feed", [Readers(length=1000), Segments(length=1000)])
def test_a_recording_shorter_than_a_step_is_refused(feed):
    with pytest.raises(PairError, match="999 samples long, shorter than the 1000"):
        next(feed.plan([5000, 999], 0, 0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Readers(readers=0),
        lambda: Segments(hop=0),
        lambda: Segments(warmup=-1),
        lambda: FullBatch(rounds=0),
        lambda: FullBatch(rows=9, samples=8),
    ],
)
def test_impossible_sizes_are_refused(make):
    with pytest.raises(ConfigError, match="must be at least"):
        make()
