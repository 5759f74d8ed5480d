"""The mending: sines, whose value at every moment is known, recorded with every fault and mended again."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from test_warp import error_db, tones

from klann_lightning.data.audio import AudioInfo, audio_info, iter_audio, read_audio, write_audio
from klann_lightning.data.pairs import check_pair
from klann_lightning.doctor import mend
from klann_lightning.doctor.alignment import Alignment, Jump
from klann_lightning.doctor.mend import lay_back, mend_pair
from klann_lightning.doctor.recipe import Recipe, plan
from klann_lightning.doctor.warp import FADE
from klann_lightning.errors import PairError

NAMES = ("x-input.wav", "x-target.wav")
HIGHEST = 0.6  # of the Nyquist frequency: there soxr is exact to -100 dB


def answer(moments, seed=1):
    """What an ideal device answers at moments in samples of the input -> [T]."""
    return tones(np.asarray(moments, float), HIGHEST, seed)


def aligned(delay=0.0, drift_ppm=0.0, polarity=1, jumps=()):
    return Alignment(delay, 1.0, polarity, 1.0, drift_ppm, tuple(jumps))


def record(folder, alignment, frames=100_000, rates=(48000, 48000), channel=None, target_frames=None):
    """A pair as files, in whose target the answer lies where the alignment says -> paths of both."""
    paths = folder / "in.wav", folder / "out.wav"
    write_audio(paths[0], tones(np.arange(float(frames)), HIGHEST), rates[0])
    per = rates[1] / rates[0]
    moments = np.arange(round(frames * per) if target_frames is None else target_frames) / per
    samples = alignment.polarity * answer((moments - alignment.delay) / (1 + alignment.drift_ppm * 1e-6))
    if channel is None:
        write_audio(paths[1], samples, rates[1])
    else:
        other = np.random.default_rng(0).normal(size=len(samples)) / 8
        both = (other, samples) if channel else (samples, other)
        soundfile.write(paths[1], np.stack(both, axis=1), rates[1], subtype="FLOAT")
    return paths


def mended(folder, paths, alignment, sample_rate=None, channels=(0, 0)):
    """Plan and mend -> the recipe, the sentences, input and target as arrays; they are a pair."""
    recipe = plan(alignment, audio_info(paths[0]), audio_info(paths[1]), sample_rate, channels)
    told = mend_pair(*paths, recipe, folder / "new", NAMES)
    results = [folder / "new" / name for name in NAMES]
    pair = check_pair(*results)
    assert (pair.frames, pair.sample_rate) == (recipe.frames, recipe.sample_rate)
    return recipe, told, *(read_audio(path) for path in results)


# A target that is moved by whole samples


@pytest.mark.parametrize("polarity", [1, -1])
@pytest.mark.parametrize("delay", [0, 1, 777, 70_001, -1, -777, -70_001])
def test_whole_samples_are_moved_bit_by_bit(tmp_path, delay, polarity):
    alignment = aligned(delay, polarity=polarity)
    paths = record(tmp_path, alignment)
    recipe, _, dry, wet = mended(tmp_path, paths, alignment)
    assert (recipe.start, recipe.frames) == (max(0, -delay), 100_000 - abs(delay))
    old_dry, old_wet = read_audio(paths[0]), read_audio(paths[1])
    np.testing.assert_array_equal(dry, old_dry[recipe.start :][: len(dry)])
    np.testing.assert_array_equal(wet, polarity * old_wet[max(0, delay) :][: len(wet)])


@pytest.mark.parametrize("delay", [99.985, 100.0149])
def test_a_fraction_that_nobody_could_measure_is_let_be(tmp_path, delay):
    alignment = aligned(delay, drift_ppm=0.01)
    paths = record(tmp_path, aligned(100))
    wet = mended(tmp_path, paths, alignment)[-1]
    np.testing.assert_array_equal(wet, read_audio(paths[1])[100:])


@pytest.mark.parametrize(
    ("target_frames", "delay", "frames"),
    [(100_500, 300, 100_000), (100_500, 700, 99_800), (90_000, -300, 90_000), (90_000, 300, 89_700)],
)
def test_only_what_both_have_is_kept(tmp_path, target_frames, delay, frames):
    paths = record(tmp_path, aligned(delay), target_frames=target_frames)
    recipe = mended(tmp_path, paths, aligned(delay))[0]
    assert (recipe.start, recipe.frames) == (max(0, -delay), frames)


# A target between the samples


@pytest.mark.parametrize("seed", range(8))
def test_any_delay_and_drift(tmp_path, seed):
    chance = np.random.default_rng(seed)
    drift = chance.uniform(-500, 500) if seed % 2 else 0.0
    alignment = aligned(chance.uniform(-10_000, 10_000), drift, int(chance.choice([-1, 1])))
    paths = record(tmp_path, alignment)
    recipe, _, dry, wet = mended(tmp_path, paths, alignment)
    kept = np.arange(recipe.start, recipe.start + recipe.frames)
    np.testing.assert_array_equal(dry, read_audio(paths[0])[kept])
    assert recipe.frames > 89_700
    assert error_db(wet, answer(kept)) < -120


@pytest.mark.parametrize(
    ("rates", "sample_rate"),
    [
        ((48000, 44100), None),
        ((44100, 48000), None),
        ((44100, 48000), 48000),
        ((96000, 44100), 48000),
    ],
)
@pytest.mark.parametrize("channel", [0, 1])
def test_everything_at_once(tmp_path, rates, sample_rate, channel):
    """1234.37 samples late, 80 ppm slow, upside down, one channel of two, at another rate."""
    alignment = aligned(1234.37, 80.0, -1)
    paths = record(tmp_path, alignment, 200_000, rates, channel)
    recipe, told, dry, wet = mended(tmp_path, paths, alignment, sample_rate, (0, channel))
    per = rates[0] / recipe.sample_rate
    moments = np.arange(recipe.start, recipe.start + recipe.frames) * per
    if max(rates) < 96000:  # below, soxr cuts off what the lower rate cannot hold
        inner = slice(500, -500)  # soxr knows nothing beyond either end
        assert error_db(wet[inner], answer(moments)[inner]) < -115
        assert error_db(dry[inner], tones(moments, HIGHEST)[inner]) < -115
    if recipe.sample_rate == rates[0]:
        np.testing.assert_array_equal(dry, read_audio(paths[0])[recipe.start :][: len(dry)])
    assert any("polarity was inverted" in sentence for sentence in told)
    assert any("clock drift of the target, 80.00 ppm" in sentence for sentence in told)
    assert any(f"2 channels of the target, number {channel + 1} was kept" in sentence for sentence in told)


def test_what_was_done_is_told(tmp_path):
    alignment = aligned(-100.0, jumps=[Jump(50_000, -44)])
    assert mended(tmp_path, record(tmp_path, alignment), alignment)[1] == [
        "The target was moved 100.00 samples (2.083 ms) later, its samples are copied as they are.",
        "At 1.040 s of the mended pair are 44.00 samples (0.917 ms) that the target lost; what stands there "
        f"is no answer. It is in step again from there on, after a crossfade of {FADE} samples.",
        "Both have 99900 frames (2081.2 ms) at 48000 Hz, from sample 100 of the input on.",
    ]
    assert mended(tmp_path, record(tmp_path, aligned()), aligned())[1] == [
        "Both have 100000 frames (2083.3 ms) at 48000 Hz, from sample 0 of the input on."
    ]


@pytest.mark.parametrize("block", [1000, 1 << 18])
def test_the_size_of_blocks_does_not_matter(tmp_path, monkeypatch, block):
    alignment = aligned(-333.3, 33.0, jumps=[Jump(50_000, 12.0)])
    paths = record(tmp_path, alignment, rates=(44100, 48000), channel=1)
    expected = mended(tmp_path, paths, alignment, 32000, (0, 1))[2:]
    monkeypatch.setattr(mend, "BLOCK", block)
    for samples, same in zip(mended(tmp_path, paths, alignment, 32000, (0, 1))[2:], expected, strict=True):
        np.testing.assert_array_equal(samples, same)


# Lost and doubled samples


@pytest.mark.parametrize(("delay", "drift_ppm"), [(250.0, 0.0), (250.3, 0.0), (-250.3, 120.0)])
@pytest.mark.parametrize("by", [-441, 441])
def test_a_jump_is_stepped_over(tmp_path, delay, drift_ppm, by):
    alignment = aligned(delay, drift_ppm)
    paths = record(tmp_path, alignment)
    wet = read_audio(paths[1])
    place = round(float(alignment.at(50_000)))
    faulty = (
        np.delete(wet, range(place, place - by)) if by < 0 else np.insert(wet, place, wet[place - by : place])
    )
    write_audio(paths[1], faulty, 48000)
    at = 50_000 - min(by, 0)  # from there on the recording is in order
    alignment = alignment._replace(jumps=(Jump(at, by),))
    recipe, _, dry, wet = mended(tmp_path, paths, alignment)
    kept = np.arange(recipe.start, recipe.start + recipe.frames)
    good = (kept < 50_000 - FADE) | (kept > at + FADE)
    assert good.mean() > 0.99
    assert error_db(wet[good], answer(kept)[good]) < -115
    np.testing.assert_array_equal(dry, read_audio(paths[0])[kept])


# Back into place


@pytest.mark.parametrize("start", ["mended", "whole"])
@pytest.mark.parametrize("polarity", [1, -1])
@pytest.mark.parametrize("delay", [0, 513, -513])
def test_whole_samples_go_back_bit_by_bit(tmp_path, delay, polarity, start):
    """The mended target stands for a perfect model's output: laid back, it is the recording."""
    alignment = aligned(delay, polarity=polarity)
    paths = record(tmp_path, alignment)
    recipe, _, _, wet = mended(tmp_path, paths, alignment)
    begin = recipe.start if start == "mended" else 0
    output = np.pad(wet, (recipe.start - begin, 0))
    laid = np.concatenate(list(lay_back([output], len(output), recipe, begin)))
    first = max(0, delay)
    assert not laid[:first].any()
    np.testing.assert_array_equal(laid[first:], read_audio(paths[1])[first:][: recipe.frames])
    assert len(laid) == recipe.start + recipe.frames + delay


@pytest.mark.parametrize("rates", [(48000, 48000), (44100, 48000), (48000, 44100)])
def test_everything_goes_back(rates):
    alignment = aligned(1234.37, 80.0, -1, [Jump(100_000, 33.0)])
    info = [AudioInfo(rate, 200_000 * rate // rates[0], 1) for rate in rates]
    recipe = plan(alignment, *info)
    n = np.arange(recipe.start, recipe.start + recipe.frames)
    played = answer(n).astype(np.float32)
    laid = np.concatenate(list(lay_back([played], len(played), recipe, recipe.start)))
    moments = np.arange(len(laid)) * rates[0] / rates[1]  # in the target, at the input's rate
    for jumped, part in ((0, (1800, 100_900)), (33, (101_700, 199_000))):
        there = (moments > part[0]) & (moments < part[1])
        expected = -answer((moments[there] - 1234.37 - jumped) / (1 + 80e-6))
        assert error_db(laid[there], expected) < -110


@pytest.mark.parametrize("size", [1, 64, 5000])
def test_it_goes_back_the_same_in_blocks_of_any_size(size):
    recipe = replace(plan(aligned(10.3, 50.0), *[AudioInfo(44100, 9000, 1)] * 2), target_rate=48000)
    output = answer(np.arange(9000)).astype(np.float32)
    expected = np.concatenate(list(lay_back([output], 9000, recipe)))
    blocks = [output[start : start + size] for start in range(0, 9000, size)]
    np.testing.assert_array_equal(np.concatenate(list(lay_back(blocks, 9000, recipe))), expected)


def test_nothing_to_lay_back():
    recipe = plan(aligned(-500.0), *[AudioInfo(44100, 9000, 1)] * 2)
    with pytest.raises(PairError, match=r"the target begins 200 samples after the end of what is to be laid"):
        next(lay_back([np.zeros(300, np.float32)], 300, recipe))


# The recipe


def test_a_recipe_survives_json():
    recipe = plan(
        aligned(3.25, -7.5, -1, [Jump(500, -3.5)]), AudioInfo(44100, 9000, 1), AudioInfo(48000, 9999, 2)
    )
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    "change",
    [
        {"jumps": [[1]]},
        {"jumps": 3},
        {"polarity": 0},
        {"sample_rate": 0},
        {"frames": "many"},
        {"colour": "red"},
    ],
)
def test_nonsense_is_no_recipe(change):
    fields = plan(aligned(), *[AudioInfo(44100, 9000, 1)] * 2).to_dict()
    with pytest.raises(PairError, match="does not say how a pair was mended"):
        Recipe.from_dict(fields | change)


@pytest.mark.parametrize("fields", [{}, {"start": 0}, None, 3, "recipe", []])
def test_what_is_no_recipe_at_all(fields):
    with pytest.raises(PairError, match="does not say how a pair was mended"):
        Recipe.from_dict(fields)


def test_another_rate_counts_other_samples():
    alignment = aligned(441.0, 20.0, jumps=[Jump(88_200, 882.0)])
    recipe = plan(alignment, AudioInfo(44100, 441_000, 1), AudioInfo(44100, 441_000, 1), 48000)
    assert (recipe.delay, recipe.drift_ppm) == (pytest.approx(480), 20.0)
    assert recipe.jumps == ((96_000, pytest.approx(960)),)


# What cannot be mended


@pytest.mark.parametrize("delay", [1000, -1000, 937.5, 1e9, -1e9])
def test_no_overlap(delay):
    with pytest.raises(PairError, match=r"do not overlap: the target is .* late") as caught:
        plan(aligned(delay), *[AudioInfo(44100, 1000, 1)] * 2)
    assert (caught.value.name, caught.value.cure) == ("no_overlap", "Check that they belong together.")


def test_no_such_rate_or_channel():
    info = AudioInfo(44100, 1000, 2)
    with pytest.raises(PairError, match=r"to 0 Hz. Name a positive sample rate"):
        plan(aligned(), info, info, 0)
    with pytest.raises(PairError, match=r"the target has 2 channels, and no number 2 counted from 0"):
        plan(aligned(), info, info, None, (0, 2))


@pytest.fixture
def planned(tmp_path):
    """A recorded pair and its recipe."""
    alignment = aligned(5.3)
    paths = record(tmp_path, alignment)
    return paths, plan(alignment, audio_info(paths[0]), audio_info(paths[1]))


@pytest.mark.parametrize("side", [0, 1])
def test_a_recording_is_not_overwritten(tmp_path, planned, side):
    paths, recipe = planned
    before = [path.read_bytes() for path in paths]
    names = ("in.wav", "b.wav") if side == 0 else ("a.wav", "out.wav")
    with pytest.raises(PairError, match=rf"mending would overwrite .*{paths[side].name}"):
        mend_pair(*paths, recipe, tmp_path, names)
    assert [path.read_bytes() for path in paths] == before


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sample_that_is_no_number(tmp_path, planned, bad):
    paths, recipe = planned
    samples = read_audio(paths[1])
    samples[70_000] = bad
    write_audio(paths[1], samples, 48000)
    with pytest.raises(PairError, match=r"out\.wav has NaN or infinite samples, the first at sample 70000"):
        mend_pair(*paths, recipe, tmp_path / "deep" / "new", NAMES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.wav", "out.wav"]


def test_another_file_than_was_diagnosed(tmp_path, planned):
    paths, recipe = planned
    with pytest.raises(PairError, match=r"has 1 channels at 48000 Hz; number 2 at 48000 Hz was to be mended"):
        mend_pair(*paths, replace(recipe, target_channel=1), tmp_path / "new", NAMES)
    with pytest.raises(PairError, match=r"number 1 at 44100 Hz was to be mended. Diagnose the pair again"):
        mend_pair(*paths, replace(recipe, input_rate=44100), tmp_path / "new", NAMES)


@pytest.mark.parametrize("folder", ["in.wav", "in.wav/below", "y" * 300, "/proc/none"])
def test_a_folder_that_cannot_be(tmp_path, planned, folder):
    with pytest.raises(PairError, match="cannot write"):
        mend_pair(*planned[0], planned[1], tmp_path / folder, NAMES)


def full_after(monkeypatch, count):
    """A disk that is full after `count` blocks."""

    def write(writer, samples):
        nonlocal count
        count -= 1
        if count < 0:
            raise PairError("the disk is full.")
        original(writer, samples)

    original = mend.AudioWriter.write
    monkeypatch.setattr(mend.AudioWriter, "write", write)


@pytest.mark.parametrize("blocks", [0, 3, 5])
def test_a_full_disk_leaves_nothing_behind(tmp_path, planned, monkeypatch, blocks):
    full_after(monkeypatch, blocks)
    with pytest.raises(PairError, match="the disk is full"):
        mend_pair(*planned[0], planned[1], tmp_path / "new" / "folder", NAMES)
    assert not (tmp_path / "new").exists()


def test_older_results_are_replaced_or_stay(tmp_path, planned, monkeypatch):
    for name in NAMES:
        write_audio(tmp_path / name, np.ones(7), 48000)
    with monkeypatch.context() as patch:
        full_after(patch, 5)
        with pytest.raises(PairError, match="the disk is full"):
            mend_pair(*planned[0], planned[1], tmp_path, NAMES)
    assert [audio_info(tmp_path / name).frames for name in NAMES] == [7, 7]
    mend_pair(*planned[0], planned[1], tmp_path, NAMES)
    assert [audio_info(tmp_path / name).frames for name in NAMES] == [planned[1].frames] * 2


def test_long_files_cost_no_memory(tmp_path):
    """Four minutes in stereo are 92 MB as float32, which mending reads twice; it holds far less at once."""
    frames = 48000 * 240
    tone = answer(np.arange(48000)).astype(np.float32)
    for name in ("in.wav", "out.wav"):
        with soundfile.SoundFile(tmp_path / name, "w", 48000, 2, "PCM_16") as file:
            for _ in range(240):
                file.write(np.stack([tone, tone], axis=1))
    info = audio_info(tmp_path / "in.wav")
    recipe = plan(aligned(-1000.5, 50.0, jumps=[Jump(frames // 2, -100.0)]), info, info)
    tracemalloc.start()
    mend_pair(tmp_path / "in.wav", tmp_path / "out.wav", recipe, tmp_path, NAMES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6
    assert sum(len(block) for block in iter_audio(tmp_path / NAMES[1], 1 << 16)) == recipe.frames
