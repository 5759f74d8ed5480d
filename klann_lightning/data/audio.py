"""Read and write mono audio files, in blocks or in parts: the only door to soundfile."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeAlias

import numpy as np
import soundfile
from numpy.typing import ArrayLike, NDArray

from klann_lightning.data.headers import audio_bytes, check_is_file, mp3_says_length, ogg_is_cut
from klann_lightning.errors import PairError
from klann_lightning.files import shown

AudioFile: TypeAlias = soundfile.SoundFile
ENCODINGS = {".wav": ("WAV", "FLOAT"), ".flac": ("FLAC", "PCM_24")}
HIGHEST_RATE = 2_000_000  # Hz; no converter is faster
# soundfile raises ValueError where a damaged file claims to stand beyond its end.
_READ_ERRORS = (soundfile.SoundFileError, ValueError)


class AudioInfo(NamedTuple):
    """What a file's header says; `frames` is its length in samples of one channel."""

    sample_rate: int  # Hz
    frames: int
    channels: int


def audio_info(path: Path) -> AudioInfo:
    """Sample rate, frames and channels of any file with audio in it; PairError says why another has none."""
    with open_audio(path, mono=False) as file:
        return AudioInfo(file.samplerate, file.frames, file.channels)


def read_audio(path: Path, start: int = 0, frames: int | None = None) -> NDArray[np.float32]:
    """Samples `start` to `start + frames` of a mono file, or to its end -> [frames].

    Only that part is read from disk. Where `start` is negative, zeros stand for what was before the file.
    Raises PairError if the part reaches beyond the file's end: the file shrank since it was checked.
    """
    with open_audio(path) as file:
        stop = file.frames if frames is None else start + frames
        if not start <= stop <= file.frames:
            raise PairError(
                f"cannot read samples {start} to {stop} of {path}: it has {file.frames}. If the file changed "
                "since it was checked, check it again."
            )
        samples = _read(file, max(start, 0), max(stop, 0) - max(start, 0))
    return np.pad(samples, (stop - start - len(samples), 0))


def iter_audio(path: Path, block: int) -> Iterator[NDArray[np.float32]]:
    """A mono file from start to end in arrays of `block` samples -> [block]; the last may be shorter."""
    if block < 1:
        raise PairError(f"cannot read {path} in blocks of {block} samples. Choose a block of at least 1.")
    with open_audio(path) as file:
        yield from blocks_of(file, block)


def write_audio(path: Path, samples: ArrayLike, sample_rate: int) -> None:
    """Write mono samples [T] to a .wav (32-bit float) or .flac (24 bit) file; raises as AudioWriter does."""
    with AudioWriter(path, sample_rate) as writer:
        writer.write(samples)


class AudioWriter:
    """Writes a mono .wav (32-bit float) or .flac (24 bit) file block by block, in a `with` statement.

    The file gets its name where the `with` ends without an exception. Until then it is a temporary file
    beside it: no half-written file ever carries the final name. Parent folders are made.
    Raises PairError for another suffix, a place that cannot be written, samples that are not [T], no samples
    at all, and in FLAC samples that are not within -1 to 1: it would clip them.
    """

    def __init__(self, path: Path, sample_rate: int) -> None:
        if path.suffix.lower() not in ENCODINGS:
            raise PairError(f"cannot write {path}: unknown suffix {path.suffix!r}. Name it .wav or .flac.")
        if path.is_dir():
            raise PairError(f"cannot write {path}: it is a folder. Name a file in it.")
        self._path, self._rate = path, sample_rate
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")

    def __enter__(self) -> "AudioWriter":
        kind, encoding = ENCODINGS[self._path.suffix.lower()]
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = soundfile.SoundFile(self._part, "w", self._rate, 1, encoding, format=kind)
        except (soundfile.SoundFileError, OSError) as error:
            with contextlib.suppress(OSError):
                self._part.unlink()
            raise self._cannot_write(error) from error
        return self

    def write(self, samples: ArrayLike) -> None:
        """Append samples [T]."""
        block = np.asarray(samples, dtype=np.float32)
        if block.ndim != 1:
            raise PairError(
                f"cannot write {self._path}: samples have shape {block.shape}. Give one channel, [T]."
            )
        if self._path.suffix.lower() == ".flac" and not (np.abs(block) <= 1).all():
            raise PairError(
                f"cannot write {self._path}: its samples reach {np.abs(block).max():.4g} and FLAC holds only "
                "-1 to 1. Write a .wav file, which has no such limit, or turn the level down."
            )
        try:
            self._file.write(block)
        except soundfile.SoundFileError as error:
            raise self._cannot_write(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            frames = self._file.frames
            self._file.close()
            if error is None and frames == 0:
                raise PairError(f"cannot write {self._path}: there are no samples. Give at least one.")
            if error is None:
                os.replace(self._part, self._path)
        except (soundfile.SoundFileError, OSError) as failure:
            raise self._cannot_write(failure) from failure
        finally:
            self._part.unlink(missing_ok=True)

    def _cannot_write(self, error: Exception) -> PairError:
        return PairError(
            f"cannot write {self._path} at {self._rate} Hz: {_reason(error)}. Check the sample rate, "
            "the folder's permissions and the space left on the disk."
        )


@contextlib.contextmanager
def open_audio(path: Path, mono: bool = True) -> Iterator[AudioFile]:
    """A file that holds at least one frame of audio; PairError says why another does not."""
    name = shown(path)
    with _opened(path) as file:
        _check_length(file, path)
        if file.samplerate > HIGHEST_RATE:
            raise PairError(
                f"{name} says that its sample rate is {file.samplerate} Hz: its header is damaged.",
                "Copy or export it again.",
                "damaged",
            )
        if mono and file.channels != 1:
            raise PairError(
                f"{name} has {file.channels} channels; this trains on mono recordings:",
                "keep one channel (sox: remix 1) or mix down (sox: remix -) and run again.",
                "several_channels",
            )
        yield file


def _opened(path: Path) -> AudioFile:
    """The file as libsndfile opens it; PairError for what is no file, or none that it can read."""
    name, missing = shown(path), ""
    try:
        check_is_file(path)
        promised, there = audio_bytes(path)
        missing = _shortfall(promised, there) if promised > there else ""
        # soundfile encodes names itself, and fails at those that are no text
        return soundfile.SoundFile(path if name == str(path) else os.fsencode(path))
    except PermissionError as error:
        raise PairError(
            f"{name} must not be read by this user: {_reason(error)}.",
            "Give yourself the right to read it, or copy it to a folder of your own.",
            "no_permission",
        ) from error
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: headerless .raw
        if missing:
            raise PairError(
                f"{name} is truncated: {missing}.", "Copy or export it again.", "truncated"
            ) from error
        raise PairError(
            f"{name} cannot be read as audio: {_reason(error)}.",
            "If it is a recording, convert it to WAV with sox or ffmpeg, or export it again.",
            "unreadable",
        ) from error


def _check_length(file: AudioFile, path: Path) -> None:
    """PairError where the header promises more than there is, nothing, or does not say how much."""
    name = shown(path)
    promised, there = audio_bytes(path)
    if promised > there:
        raise PairError(
            f"{name} is truncated: {_shortfall(promised, there)} ({span(file.frames, file.samplerate)}).",
            "Copy or export it again.",
            "truncated",
        )
    if file.format == "OGG" and ogg_is_cut(path):
        raise PairError(
            f"{name} is truncated: the page that ends an Ogg file is not there.",
            "Copy or export it again.",
            "truncated",
        )
    if file.frames <= 0 and promised == 0 and there > 1000:
        raise PairError(
            f"{name} is empty: it has 0 frames by its header, though {there} bytes follow it.",
            "The recorder was interrupted: repair the header (sox --ignore-length, ffmpeg), or record again.",
            "no_frames",
        )
    if file.frames <= 0:
        raise PairError(f"{name} is empty: it has 0 frames.", "Record or export it again.", "no_frames")
    counted = file.subtype != "MPEG_LAYER_III" or mp3_says_length(path)
    if file.frames == np.iinfo(np.int64).max or not counted:  # FLAC that was written into a pipe
        raise PairError(
            f"{name} does not say how long it is.", "Convert it to WAV with sox or ffmpeg.", "length_unknown"
        )


def _shortfall(promised: int, there: int) -> str:
    return f"its header promises {promised} bytes of audio, only {there} are there"


def _read(file: AudioFile, start: int, frames: int) -> NDArray[np.float32]:
    """Samples [frames] from `start` on; PairError if the file does not yield them, as a truncated FLAC."""
    samples = np.zeros(0, np.float32)
    with contextlib.suppress(*_READ_ERRORS):
        if file.tell() != start:
            file.seek(start)
        samples = file.read(frames, dtype="float32")
    if len(samples) < frames:
        raise _breaks_off(file, start, frames)
    return samples


def read_channel(file: AudioFile, channel: int, start: int, frames: int) -> NDArray[np.float32]:
    """Samples `start` to `start + frames` of one channel, the first is 0 -> [frames]; all must be there."""
    samples = _read(file, start, frames)
    return samples if samples.ndim == 1 else np.ascontiguousarray(samples[:, channel])


def _breaks_off(file: AudioFile, start: int, frames: int) -> PairError:
    """Truncated where the last sample cannot be read either, even by who has not met the damage."""
    last = 0
    with contextlib.suppress(*_READ_ERRORS), soundfile.SoundFile(file.name) as again:
        again.seek(file.frames - 1)
        last = len(again.read(1))
    return PairError(
        f"{shown(file.name)} is truncated or damaged: not all of samples {start} to {start + frames} (from "
        f"{start / file.samplerate:.3f} s on) can be read.",
        "Copy or export it again.",
        "damaged" if last else "truncated",
    )


def channel_blocks(file: AudioFile, size: int) -> Iterator[NDArray[np.float32]]:
    """The whole file, all its channels, in arrays [size, channels]; the last may be shorter."""
    for start in range(0, file.frames, size):
        frames = min(size, file.frames - start)
        samples = np.zeros((0, file.channels), np.float32)
        with contextlib.suppress(*_READ_ERRORS):
            samples = file.read(frames, dtype="float32", always_2d=True)
        if len(samples) < frames:
            raise _breaks_off(file, start, frames)
        yield samples


def blocks_of(file: AudioFile, size: int, frames: int | None = None) -> Iterator[NDArray[np.float32]]:
    """The whole file, or its first `frames` samples, in arrays [size]; the last may be shorter."""
    end = file.frames if frames is None else frames
    for start in range(0, end, size):
        yield _read(file, start, min(size, end - start))


def not_finite(path: Path | str | bytes, sample_rate: int, first: int, count: int | None = None) -> PairError:
    """For a file that has NaN or infinite samples, the first of them at sample `first`."""
    many = "" if count is None else f"{count} "
    return PairError(
        f"{shown(path)} has {many}NaN or infinite samples, the first at sample {first} "
        f"({first / sample_rate:.3f} s).",
        "Export it again, or cut that part out of both files.",
        "not_finite",
    )


def span(frames: int, sample_rate: int) -> str:
    """A length in words: samples and milliseconds."""
    return f"{frames} frames ({1000 * frames / sample_rate:.1f} ms)"


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).rstrip(".")
