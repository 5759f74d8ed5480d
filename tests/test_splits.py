"""One pair cut into three: apart, at quiet places, bit by bit."""

import numpy as np
import pytest

from klann_lightning.data.audio import AudioWriter, read_audio, write_audio
from klann_lightning.data.pairs import SPLITS, check_pair, find_pairs
from klann_lightning.doctor import splits
from klann_lightning.doctor.splits import (
    LEAST_SECONDS,
    Span,
    input_levels,
    level_window,
    parse_shares,
    plan_splits,
    write_splits,
)
from klann_lightning.errors import ConfigError, PairError

RATE = 8000
SHARES = parse_shares("70/15/15")


def loud(seconds, seed=0):
    return np.random.default_rng(seed).normal(size=round(seconds * RATE)).astype(np.float32) / 8


def planned(tmp_path, samples, gap_seconds=0.5, shares=SHARES):
    write_audio(tmp_path / "level.wav", samples, RATE)
    return plan_splits(input_levels(tmp_path / "level.wav"), len(samples), shares, gap_seconds, RATE)


# Shares


@pytest.mark.parametrize(
    ("text", "shares"),
    [
        ("70/15/15", (0.7, 0.15, 0.15)),
        ("8/1/1", (0.8, 0.1, 0.1)),
        ("0.5/ 0.25/0.25", (0.5, 0.25, 0.25)),
        ("1/1/2", (0.25, 0.25, 0.5)),
    ],
)
def test_shares_are_any_ratio(text, shares):
    assert parse_shares(text) == pytest.approx(shares)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "70",
        "70/30",
        "70/15/10/5",
        "70/30/0",
        "70/-15/45",
        "a/b/c",
        "70,15,15",
        "nan/1/1",
        "inf/1/1",
        "//",
    ],
)
def test_what_are_no_shares(text):
    with pytest.raises(ConfigError, match=rf"cannot split a pair into '{text}'. Give three positive numbers"):
        parse_shares(text)


# The plan


@pytest.mark.parametrize("seed", range(30))
def test_parts_are_apart_and_have_their_shares(seed):
    chance = np.random.default_rng(seed)
    rate = int(chance.choice([8000, 44100, 48000]))
    shares = chance.dirichlet([6, 2, 2]) + 0.05
    shares /= shares.sum()
    gap_seconds, frames = chance.uniform(0, 5), int(rate * chance.uniform(80, 4000))
    levels = chance.lognormal(size=-(-frames // level_window(rate)))
    spans = plan_splits(levels, frames, shares, gap_seconds, rate)
    assert (spans[0].start, spans[2].stop) == (0, frames)
    for before, after in ((spans[0], spans[1]), (spans[1], spans[2])):
        assert after.start - before.stop >= gap_seconds * rate
    lengths = np.array([span.stop - span.start for span in spans])
    assert lengths.min() >= LEAST_SECONDS * rate
    usable = frames - 2 * gap_seconds * rate
    np.testing.assert_allclose(lengths / usable, shares, rtol=0, atol=0.2 * shares.min() + 1e-4)


def test_cuts_land_in_quiet_places(tmp_path):
    """Each end has one pause of 50 ms in its reach of 1.47 s, and finds it."""
    samples = loud(100)
    pauses = [68.0, 70.6, 83.9, 85.7]  # seconds, where they begin
    for pause in pauses:
        samples[round(pause * RATE) :][: round(0.05 * RATE)] *= 0.001
    train, val, test = planned(tmp_path, samples, 1.0)
    for cut, pause in zip((train.stop, val.start, val.stop, test.start), pauses, strict=True):
        assert pause <= cut / RATE <= pause + 0.05
        assert np.abs(samples[cut - 40 : cut + 40]).max() < 0.001


def test_of_equal_places_the_nearest_to_the_share_is_taken(tmp_path):
    train, val, test = planned(tmp_path, np.full(100 * RATE, 0.1, np.float32), 1.0)
    window = level_window(RATE)
    for cut, nominal in ((train.stop, 68.6), (val.start, 69.6), (val.stop, 84.3), (test.start, 85.3)):
        assert abs(cut - nominal * RATE) <= window


def test_a_long_silence_is_cut_where_the_share_is(tmp_path):
    samples = loud(100)
    samples[60 * RATE : 80 * RATE] = 0
    train, val, _ = planned(tmp_path, samples, 0.0)
    assert abs(train.stop - 70 * RATE) <= level_window(RATE)
    assert abs(val.start - 70 * RATE) <= level_window(RATE)


def test_too_short(tmp_path):
    for seconds, gap in ((10, 0.5), (60, 25), (60, 500), (0.1, 0)):
        with pytest.raises(PairError, match=r"are too short to be split 70/15/15 with gaps of") as caught:
            planned(tmp_path, loud(seconds), gap)
        assert caught.value.name == "short_for_split"
    assert caught.value.cure.startswith("Record 16.7 s or more, ")
    planned(tmp_path, loud(16.7), 0)


@pytest.mark.parametrize("gap_seconds", [-1, np.nan, np.inf])
def test_no_gap_at_all(tmp_path, gap_seconds):
    with pytest.raises(PairError, match=r"a gap cannot be .* s long. Give the device's memory"):
        planned(tmp_path, loud(60), gap_seconds)


def test_levels_are_those_of_the_input(tmp_path):
    samples = loud(30.3, seed=4)
    write_audio(tmp_path / "x.wav", samples, RATE)
    window = level_window(RATE)
    parts = [samples[start : start + window] for start in range(0, len(samples), window)]
    expected = [np.sqrt(np.mean(part.astype(float) ** 2)) for part in parts]
    np.testing.assert_allclose(input_levels(tmp_path / "x.wav"), expected, rtol=1e-12)


# The files


@pytest.fixture
def pair(tmp_path):
    """Forty seconds: more than a block in each part."""
    paths = tmp_path / "in.wav", tmp_path / "out.wav"
    for seed, path in enumerate(paths):
        write_audio(path, loud(40, seed), RATE)
    return paths


SPANS = Span(0, 200_001), Span(210_000, 250_000), Span(251_001, 320_000)


def test_parts_are_written_bit_by_bit(tmp_path, pair):
    written = write_splits(pair, SPANS, tmp_path / "root", "amp")
    assert written == [pairs for split in SPLITS for pairs in find_pairs(tmp_path / "root", split, ["amp"])]
    for (start, stop), parts in zip(SPANS, written, strict=True):
        assert check_pair(*parts).frames == stop - start
        for part, whole in zip(parts, pair, strict=True):
            np.testing.assert_array_equal(read_audio(part), read_audio(whole)[start:stop])


@pytest.mark.parametrize("name", ["train/amp-input.wav", "test/amp-target.wav"])
def test_nothing_is_overwritten(tmp_path, pair, name):
    kept = tmp_path / "root" / name
    write_audio(kept, np.ones(5), RATE)
    before = kept.read_bytes()
    with pytest.raises(PairError, match=rf"{name} exists, and stays. Name another device or folder"):
        write_splits(pair, SPANS, tmp_path / "root", "amp")
    assert [path for path in (tmp_path / "root").rglob("*") if path.is_file()] == [kept]
    assert kept.read_bytes() == before


@pytest.mark.parametrize("device", ["", ".", "..", ".amp", "a/b", "../amp", "/amp", "a\\b", "y" * 250])
def test_a_name_that_is_none(tmp_path, pair, device):
    with pytest.raises(PairError, match=r"cannot (name a device's files|write)"):
        write_splits(pair, SPANS, tmp_path / "root", device)
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize("blocks", [0, 4, 8])
def test_all_or_nothing(tmp_path, pair, monkeypatch, blocks):
    left = [blocks]

    class Full(AudioWriter):
        def write(self, samples):
            left[0] -= 1
            if left[0] < 0:
                raise PairError("the disk is full.")
            super().write(samples)

    (tmp_path / "root" / "val").mkdir(parents=True)
    monkeypatch.setattr("klann_lightning.doctor.mend.AudioWriter", Full)
    with pytest.raises(PairError, match="the disk is full"):
        write_splits(pair, SPANS, tmp_path / "root", "amp")
    assert list((tmp_path / "root").rglob("*")) == [tmp_path / "root" / "val"]


def test_where_the_last_file_cannot_take_its_name(tmp_path, pair, monkeypatch):
    """Others have theirs by then, and lose it again."""
    places = []

    def replace(part, path):
        places.append(path)
        if len(places) == 4:
            raise OSError(28, "No space left on device")
        original(part, path)

    original = splits.os.replace
    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(PairError, match=r"cannot write .*amp-.*: .*No space left"):
        write_splits(pair, SPANS, tmp_path / "root", "amp")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("frames", "rate", "stop"), [(319_999, RATE, 1), (320_000, 9000, 1), (320_000, RATE, 320_001)]
)
def test_what_cannot_be_split(tmp_path, pair, frames, rate, stop):
    write_audio(pair[1], np.ones(frames), rate)
    with pytest.raises(PairError, match=r"cannot be split: they differ in rate or length, or are shorter"):
        write_splits(pair, [*SPANS[:2], Span(251_001, max(stop, 300_000))], tmp_path / "root", "amp")
    assert not (tmp_path / "root").exists()
