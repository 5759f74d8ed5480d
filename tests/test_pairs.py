"""Every bad recording is refused in words that help; every good one is read, written, resampled exactly."""

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from klann_lightning.data.audio import AudioInfo, AudioWriter, audio_info, iter_audio, read_audio, write_audio
from klann_lightning.data.pairs import Pair, check_pair, find_pairs, opening, resample_pair
from klann_lightning.errors import PairError

RATE = 44100


def noise(frames: int, seed: int = 0) -> NDArray[np.float32]:
    """[frames], within -0.5 to 0.5."""
    return np.random.default_rng(seed).uniform(-0.5, 0.5, frames).astype(np.float32)


def sine(hz: float, rate: int, frames: int) -> NDArray[np.float64]:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(frames) / rate)


def error_db(result: NDArray[np.float32], expected: NDArray[np.float64]) -> float:
    return float(10 * np.log10(np.sum((result - expected) ** 2) / np.sum(expected**2)))


def cut(path: Path, missing_bytes: int) -> Path:
    path.write_bytes(path.read_bytes()[:-missing_bytes])
    return path


@pytest.fixture
def dry(tmp_path: Path) -> Path:
    """A good recording of 1000 frames, to be paired with a bad one."""
    write_audio(tmp_path / "dry.wav", noise(1000), RATE)
    return tmp_path / "dry.wav"


@pytest.fixture
def wet(tmp_path: Path) -> Path:
    """Where a test puts the other recording."""
    return tmp_path / "wet.wav"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Pairs in the data set's layout: two takes of one device in train, and another device in val."""
    for name in ("train/la2a-take1", "train/la2a-take2", "train/fuzz", "val/fuzz"):
        for role in ("input", "target"):
            write_audio(tmp_path / "data" / f"{name}-{role}.wav", noise(10), RATE)
    return tmp_path / "data"


# find_pairs


def test_every_take_of_a_device_is_found_once(root):
    found = find_pairs(root, "train", ["la2a", "la2a-take2"])
    folder = root / "train"
    assert found == [
        (folder / "la2a-take1-input.wav", folder / "la2a-take1-target.wav"),
        (folder / "la2a-take2-input.wav", folder / "la2a-take2-target.wav"),
    ]
    assert check_pair(*found[0]).name == "la2a-take1"


def test_hidden_files_are_no_recordings(root):
    (root / "val" / "._fuzz-input.wav").write_bytes(b"written by a file manager")
    with pytest.raises(PairError, match=r"recordings of: fuzz\. Name one"):
        find_pairs(root, "val", ["."])


def test_missing_folder(root):
    with pytest.raises(
        PairError, match=r"no folder .*data/test .*recordings of: fuzz, la2a-take1, la2a-take2\)"
    ):
        find_pairs(root, "test", ["fuzz"])


def test_missing_root_says_how_to_get_data(tmp_path):
    match = (
        r"no folder .*none/train .*of: nothing.*python -m klann_lightning download fuzz la2a --root .*none, "
        r".* python -m klann_lightning simulate DEVICE .*none$"
    )
    with pytest.raises(PairError, match=match):
        find_pairs(tmp_path / "none", "train", ["fuzz", "la2a"])
    with pytest.raises(PairError, match="download DEVICE --root"):
        find_pairs(tmp_path / "none", "train", [])


def test_unknown_device_lists_the_known_ones(root):
    match = (
        r"no file la2a\*-input\.wav in .*val; it has recordings of: fuzz\. .* download la2a --root .*data, "
    )
    with pytest.raises(PairError, match=match):
        find_pairs(root, "val", ["fuzz", "la2a"])


def test_no_device(root):
    with pytest.raises(PairError, match=r"no device is named\. .*val has recordings of: fuzz\."):
        find_pairs(root, "val", [])


@pytest.mark.parametrize(("missing", "there"), [("input", "target"), ("target", "input")])
def test_half_a_pair(root, missing, there):
    (root / "train" / f"la2a-take2-{missing}.wav").unlink()
    match = rf"la2a-take2-{there}\.wav has no {missing}: la2a-take2-{missing}\.wav is not beside it"
    with pytest.raises(PairError, match=match):
        find_pairs(root, "train", ["la2a"])


# check_pair


def test_a_good_pair(dry, wet):
    samples = noise(1000, seed=1)
    write_audio(wet, samples, RATE)
    pair = check_pair(dry, wet)
    assert (pair.input, pair.target, pair.sample_rate, pair.frames) == (dry, wet, RATE, 1000)
    assert pair.input_energy == pytest.approx(np.sum(noise(1000).astype(np.float64) ** 2), rel=1e-12)
    assert pair.target_energy == pytest.approx(np.sum(samples.astype(np.float64) ** 2), rel=1e-12)


def test_sample_rates_differ(dry, wet):
    write_audio(wet, noise(1000), 48000)
    match = r"dry\.wav is 44100 Hz, .*wet\.wav is 48000 Hz\. Resample wet\.wav to 44100 Hz"
    with pytest.raises(PairError, match=match) as refused:
        check_pair(dry, wet)
    assert refused.value.name == "rates_differ"


@pytest.mark.parametrize(("frames", "longer", "shorter"), [(559, "dry", 559), (1441, "wet", 1000)])
def test_lengths_differ(dry, wet, frames, longer, shorter):
    write_audio(wet, noise(frames), RATE)
    match = (
        r"differ by 441 frames \(10\.0 ms\): .*dry\.wav has 1000 frames \(22\.7 ms\), "
        rf".*wet\.wav has {frames} frames .*cut {longer}\.wav after {shorter} frames; if not, "
        r"align them first\.$"
    )
    with pytest.raises(PairError, match=match) as refused:
        check_pair(dry, wet)
    assert refused.value.name == "lengths_differ"


def test_stereo(dry, wet):
    soundfile.write(wet, np.zeros((1000, 2)), RATE)
    with pytest.raises(PairError, match=r"wet\.wav has 2 channels; this trains on mono .*remix"):
        check_pair(dry, wet)


def test_silence_names_the_file(dry, wet):
    write_audio(wet, np.zeros(1000), RATE)
    match = r"wet\.wav is silent: all 1000 frames \(22\.7 ms\) are zero\. Check .* export it again\.$"
    with pytest.raises(PairError, match=match) as refused:
        check_pair(dry, wet)
    assert refused.value.name == "silent"
    with pytest.raises(PairError, match=r"wet\.wav is silent"):
        check_pair(wet, dry)


def test_an_opening_that_is_silent(dry, wet):
    write_audio(wet, np.concatenate([np.zeros(600), noise(400)]), RATE)
    match = r"the first 600 frames \(13\.6 ms\) of .*wet\.wav are silent\. Use more .* off both files\.$"
    with pytest.raises(PairError, match=match):
        opening(check_pair(dry, wet), 600)


def test_an_opening_has_its_own_length_and_energies(tmp_path):
    """Longer than a block of what is read at once; all of a pair is the pair."""
    sides = {"dry": noise(150_000), "wet": 0.5 * noise(150_000, seed=1)}
    for name, samples in sides.items():
        write_audio(tmp_path / f"{name}.wav", samples, RATE)
    pair = check_pair(tmp_path / "dry.wav", tmp_path / "wet.wav")
    energies = [np.sum(samples.astype(np.float64) ** 2) for samples in sides.values()]
    assert (pair.input_energy, pair.target_energy) == pytest.approx(tuple(energies), rel=1e-12)
    assert opening(pair, 150_000) is pair
    first = opening(pair, 100_000)
    energies = [np.sum(samples[:100_000].astype(np.float64) ** 2) for samples in sides.values()]
    assert (first.input_energy, first.target_energy) == pytest.approx(tuple(energies), rel=1e-12)
    assert (first.input, first.frames, first.sample_rate) == (pair.input, 100_000, RATE)


def test_not_finite(tmp_path):
    samples = noise(100_000)
    write_audio(tmp_path / "dry.wav", samples, RATE)
    samples[[88200, 88201, 99_999]] = np.nan, np.inf, -np.inf  # beyond the first block
    write_audio(tmp_path / "wet.wav", samples, RATE)
    match = r"wet\.wav has 3 NaN or infinite samples, the first at sample 88200 \(2\.000 s\)\. Export it"
    with pytest.raises(PairError, match=match) as refused:
        check_pair(tmp_path / "dry.wav", tmp_path / "wet.wav")
    assert refused.value.name == "not_finite"
    samples = noise(100_000)
    samples[[7, 99_000]] = np.nan
    write_audio(tmp_path / "wet.wav", samples, RATE)
    with pytest.raises(PairError, match=r"has 2 NaN or infinite samples, the first at sample 7 \(0\.000 s\)"):
        check_pair(tmp_path / "wet.wav", tmp_path / "wet.wav")


def test_a_name_that_is_no_text_is_printed(dry, wet):
    write_audio(wet, np.zeros_like(read_audio(dry)), RATE)
    strange = wet.rename(wet.with_name(os.fsdecode(b"wet\xff.wav")))
    with pytest.raises(PairError, match=r"/wet\\xff\.wav is silent"):
        check_pair(dry, strange)


def test_empty(dry, wet):
    soundfile.write(wet, np.zeros(0), RATE)
    with pytest.raises(PairError, match=r"wet\.wav is empty: it has 0 frames"):
        check_pair(dry, wet)


def test_missing_file(dry, wet):
    with pytest.raises(PairError, match=r"no such file: .*wet\.wav"):
        check_pair(dry, wet)


def test_folder(dry, tmp_path):
    with pytest.raises(PairError, match="is a folder, not an audio file"):
        check_pair(dry, tmp_path)


def test_zero_bytes(dry, wet):
    wet.touch()
    with pytest.raises(PairError, match=r"wet\.wav has 0 bytes"):
        check_pair(dry, wet)


@pytest.mark.parametrize(
    "content", [b"not audio at all", b"RIFF", b"\0" * 500, b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff"]
)
@pytest.mark.parametrize("name", ["wet.wav", "wet.flac", "wet.raw"])
def test_not_audio(dry, tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PairError, match=rf"{name} cannot be read as audio: .*convert it to WAV"):
        check_pair(dry, tmp_path / name)


@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64"])
@pytest.mark.parametrize(("encoding", "sample_bytes"), [("PCM_16", 2), ("PCM_24", 3), ("FLOAT", 4)])
@pytest.mark.parametrize("missing_bytes", [1, 500])
def test_truncated_wav(dry, wet, kind, encoding, sample_bytes, missing_bytes):
    soundfile.write(wet, noise(1000), RATE, subtype=encoding, format=kind)
    promised = 1000 * sample_bytes
    match = rf"wet\.wav is truncated: .* {promised} bytes of audio, only {promised - missing_bytes} are there"
    with pytest.raises(PairError, match=match):
        check_pair(dry, cut(wet, missing_bytes))


def test_truncated_wav_with_long_notes_in_front(dry, wet):
    """libsndfile's own log has no room left to tell that this file is truncated."""
    soundfile.write(wet, noise(1000), RATE, subtype="PCM_16")
    header, audio = wet.read_bytes()[:36], wet.read_bytes()[36:]
    wet.write_bytes(header + b"".join(b"ab%02d\x01\0\0\0x\0" % index for index in range(99)) + audio)
    assert audio_info(wet).frames == 1000
    with pytest.raises(PairError, match=r"wet\.wav is truncated: .* 2000 bytes of audio, only 1990"):
        check_pair(dry, cut(wet, 10))


@pytest.mark.parametrize("frames", [999, 1000])
def test_odd_length_of_audio_is_not_truncated(wet, frames):
    """Not all programs write the byte that pads a chunk of odd length."""
    soundfile.write(wet, noise(frames), RATE, subtype="PCM_24")
    wet.write_bytes(wet.read_bytes()[: 44 + 3 * frames])
    assert len(read_audio(wet)) == frames


@pytest.mark.parametrize("placeholder", [0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_wav_written_into_a_pipe_is_not_truncated(dry, wet, placeholder):
    soundfile.write(wet, noise(1000), RATE, subtype="PCM_16")
    content = bytearray(wet.read_bytes())
    content[40:44] = placeholder.to_bytes(4, "little")
    wet.write_bytes(content)
    assert check_pair(dry, wet).frames == 1000


@pytest.mark.parametrize("missing_bytes", [1, 100_000])
def test_truncated_flac(tmp_path, missing_bytes):
    samples = noise(100_000)
    write_audio(tmp_path / "dry.wav", samples, RATE)
    write_audio(tmp_path / "wet.flac", samples, RATE)
    with pytest.raises(
        PairError, match=r"wet\.flac is truncated or damaged: not all of samples \d+ to \d+ .* s on\)"
    ):
        check_pair(tmp_path / "dry.wav", cut(tmp_path / "wet.flac", missing_bytes))


def test_flac_of_unknown_length(dry, tmp_path):
    path = tmp_path / "wet.flac"
    write_audio(path, noise(1000), RATE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # STREAMINFO: 36 bits that count the samples, 0 if unknown
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with pytest.raises(PairError, match=r"wet\.flac does not say how long it is\. Convert it"):
        check_pair(dry, path)


# read_audio, iter_audio, audio_info


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize(("start", "frames"), [(0, 20_000), (0, 1), (12_345, 4321), (19_999, 1), (20_000, 0)])
def test_partial_read_equals_slice(tmp_path, suffix, start, frames):
    path = tmp_path / f"x{suffix}"
    write_audio(path, noise(20_000), RATE)
    whole = read_audio(path)
    part = read_audio(path, start, frames)
    assert part.dtype == np.float32
    np.testing.assert_array_equal(part, whole[start : start + frames])
    np.testing.assert_array_equal(read_audio(path, start), whole[start:])


@pytest.mark.parametrize(("start", "frames"), [(-100, 300), (-100, None), (-100, 100), (-100, 30)])
def test_zeros_before_the_start(dry, start, frames):
    padded = np.concatenate([np.zeros(100, np.float32), noise(1000)])
    np.testing.assert_array_equal(read_audio(dry, start, frames), padded[:frames])


@pytest.mark.parametrize(("start", "frames"), [(900, 101), (1001, None), (-1, 1002), (5, -1)])
def test_read_beyond_the_end(dry, start, frames):
    with pytest.raises(
        PairError, match=rf"samples {start} to \d+ of .*dry\.wav: it has 1000\. .*check it again"
    ):
        read_audio(dry, start, frames)


@pytest.mark.parametrize("block", [1, 64, 300, 1000, 5000])
def test_blocks_make_the_whole(dry, block):
    blocks = list(iter_audio(dry, block))
    assert all(len(part) == block for part in blocks[:-1])
    np.testing.assert_array_equal(np.concatenate(blocks), noise(1000))


def test_block_of_no_samples(dry):
    with pytest.raises(PairError, match=r"dry\.wav in blocks of 0 samples"):
        next(iter_audio(dry, 0))


def test_stereo_is_described_but_not_read(wet):
    soundfile.write(wet, np.zeros((7, 2)), 48000)
    assert audio_info(wet) == AudioInfo(sample_rate=48000, frames=7, channels=2)
    for read in (read_audio, lambda path: next(iter_audio(path, 4))):
        with pytest.raises(PairError, match="has 2 channels"):
            read(wet)


def test_audio_info_raises_like_check_pair(wet):
    with pytest.raises(PairError, match="no such file"):
        audio_info(wet)


# write_audio, AudioWriter


def test_float_wav_keeps_every_bit(tmp_path):
    samples = 3 * noise(1000)  # beyond full scale too
    write_audio(tmp_path / "new" / "folder" / "x.WAV", samples, 48000)
    assert audio_info(tmp_path / "new" / "folder" / "x.WAV") == AudioInfo(48000, 1000, 1)
    np.testing.assert_array_equal(read_audio(tmp_path / "new" / "folder" / "x.WAV"), samples)


def test_flac_keeps_24_bits(tmp_path):
    samples = np.concatenate([noise(1000), [-1, 1]])
    write_audio(tmp_path / "x.flac", samples, RATE)
    assert np.abs(read_audio(tmp_path / "x.flac") - samples).max() <= 2**-23
    with pytest.raises(PairError, match=r"x\.flac: its samples reach 1\.25 and FLAC holds only -1 to 1"):
        write_audio(tmp_path / "x.flac", 1.25 * samples, RATE)
    assert len(read_audio(tmp_path / "x.flac")) == 1002, "the older file stays"


def test_blockwise_writing_equals_writing_at_once(dry, wet):
    with AudioWriter(wet, RATE) as writer:
        for block in iter_audio(dry, 333):
            writer.write(block)
            assert not wet.exists()
    np.testing.assert_array_equal(read_audio(wet), noise(1000))
    assert sorted(path.name for path in wet.parent.iterdir()) == ["dry.wav", "wet.wav"]


def test_a_file_may_be_rewritten_while_it_is_read(dry):
    with AudioWriter(dry, RATE) as writer:
        for block in iter_audio(dry, 100):
            writer.write(-block)
    np.testing.assert_array_equal(read_audio(dry), -noise(1000))


def test_an_exception_leaves_no_file(wet):
    def blocks():
        yield noise(1000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), AudioWriter(wet, RATE) as writer:
        any(map(writer.write, blocks()))
    assert list(wet.parent.iterdir()) == []


def test_a_full_disk_leaves_no_file(wet, monkeypatch):
    def fail(*_):
        raise soundfile.LibsndfileError(2)

    monkeypatch.setattr(soundfile.SoundFile, "write", fail)
    with pytest.raises(PairError, match=r"cannot write .*wet\.wav at 44100 Hz: .* space left on the disk"):
        write_audio(wet, noise(1000), RATE)
    assert list(wet.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["x.mp3", "x"])
def test_unknown_suffix(tmp_path, name):
    with pytest.raises(PairError, match=rf"{name}: unknown suffix '.*'\. Name it \.wav or \.flac"):
        write_audio(tmp_path / name, noise(10), RATE)


@pytest.mark.parametrize(
    ("place", "samples", "rate", "match"),
    [
        ("x.wav", noise(10)[None], RATE, r"samples have shape \(1, 10\)\. Give one channel"),
        ("x.wav", [], RATE, "there are no samples"),
        ("x.wav", noise(10), 0, "at 0 Hz: .*Check the sample rate"),
        ("x.flac", noise(10), 2_000_000, "at 2000000 Hz: .*Check the sample rate"),
        ("taken/x.wav", noise(10), RATE, "the folder's permissions"),
        (".wav/y/../../folder.wav", noise(10), RATE, "it is a folder"),
    ],
)
def test_cannot_write(tmp_path, place, samples, rate, match):
    (tmp_path / "taken").write_text("a file where a folder should be")
    (tmp_path / "folder.wav").mkdir()
    (tmp_path / ".wav" / "y").mkdir(parents=True)
    with pytest.raises(PairError, match=f"cannot write .*{match}"):
        write_audio(tmp_path / place, samples, rate)
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "folder.wav", ".wav"}


# resample_pair


def sine_pair(folder: Path, rate: int, hz: float, frames: int) -> Pair:
    """A sine and its double, [frames] each."""
    for role, gain in (("input", 1), ("target", 2)):
        write_audio(folder / f"sine-{role}.wav", gain * sine(hz, rate, frames), rate)
    return check_pair(folder / "sine-input.wav", folder / "sine-target.wav")


@pytest.mark.parametrize(("old", "new"), [(44100, 48000), (48000, 44100), (96000, 44100), (44100, 44100)])
@pytest.mark.parametrize("hz", [50.0, 5000.0, 14000.0])
def test_resampling_is_exact_and_aligned(tmp_path, old, new, hz):
    pair = sine_pair(tmp_path, old, hz, 150_000)
    result = resample_pair(pair, new, tmp_path / "resampled")
    assert (result.name, result.sample_rate, result.frames) == ("sine", new, round(150_000 * new / old))
    expected = sine(hz, new, result.frames)
    inner = slice(2000, -2000)  # a sine that begins and ends at once is no sine there
    assert error_db(read_audio(result.input)[inner], expected[inner]) < -100
    assert error_db(read_audio(result.target)[inner], 2 * expected[inner]) < -100
    assert result.target_energy == pytest.approx(4 * result.input_energy, rel=1e-6)


@pytest.mark.parametrize("frames", [3, 12_345, 50_000, 65_536, 65_537, 131_072])
@pytest.mark.parametrize(("old", "new"), [(48000, 44100), (44100, 22050), (44100, 96000)])
def test_resampled_length(tmp_path, old, new, frames):
    """12345 and 50000 end at half a sample, where soxr rounds otherwise."""
    pair = sine_pair(tmp_path, old, 500.0, frames)
    assert resample_pair(pair, new, tmp_path / "resampled").frames == round(frames * new / old)


@pytest.mark.parametrize(
    ("rate", "folder", "match"),
    [(0, "new", "cannot resample sine to 0 Hz"), (48000, ".", r"would overwrite sine in .*another folder")],
)
def test_cannot_resample(tmp_path, rate, folder, match):
    with pytest.raises(PairError, match=match):
        resample_pair(sine_pair(tmp_path, RATE, 500.0, 100), rate, tmp_path / folder)


def test_memory_does_not_grow_with_length(tmp_path):
    """Two files of 16 MB each go through check and resampling in less memory than one of them takes."""
    with AudioWriter(tmp_path / "dry.wav", RATE) as writer:
        for seed in range(64):
            writer.write(noise(1 << 16, seed))
    tracemalloc.start()
    resample_pair(check_pair(tmp_path / "dry.wav", tmp_path / "dry.wav"), 22050, tmp_path / "new")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4e6
