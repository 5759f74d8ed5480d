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

from klann_lightning.errors import PairError

AudioFile: TypeAlias = soundfile.SoundFile
ENCODINGS = {".wav": ("WAV", "FLOAT"), ".flac": ("FLAC", "PCM_24")}
# Who writes WAV into a pipe cannot know its length, and promises one of these numbers of bytes instead.
LENGTH_UNKNOWN = (0x7FFFF000, 0x80000000, 0xFFFFFFFF)


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
    try:
        if path.is_dir():
            raise PairError(f"{path} is a folder, not an audio file. Name a file in it.")
        if not path.exists():
            raise PairError(f"no such file: {path}. Check its name and its folder.")
        if path.stat().st_size == 0:
            raise PairError(f"{path} has 0 bytes, so it is no audio file. Copy or export it again.")
        promised, there = _audio_bytes(path)
        opened = soundfile.SoundFile(path)
    except (soundfile.SoundFileError, OSError, TypeError) as error:  # TypeError: headerless .raw
        raise PairError(
            f"{path} cannot be read as audio: {_reason(error)}. If it is a recording, convert it to WAV "
            "with sox or ffmpeg, or export it again."
        ) from error
    with opened as file:
        if promised > there:
            raise PairError(
                f"{path} is truncated: its header promises {promised} bytes of audio, only {there} are there "
                f"({span(file.frames, file.samplerate)}). Copy or export it again."
            )
        if file.frames == 0:
            raise PairError(f"{path} is empty: it has 0 frames. Record or export it again.")
        if file.frames == np.iinfo(np.int64).max:  # FLAC that was written into a pipe
            raise PairError(f"{path} does not say how long it is. Convert it to WAV with sox or ffmpeg.")
        if mono and file.channels != 1:
            raise PairError(
                f"{path} has {file.channels} channels; this trains on mono recordings: keep one channel "
                "(sox: remix 1) or mix down (sox: remix -) and run again."
            )
        yield file


def _audio_bytes(path: Path) -> tuple[int, int]:
    """Bytes of audio that a WAV header promises, and bytes that follow it; (0, 0) where it promises none.

    libsndfile silently reads a truncated WAV as a shorter one. The log where it says so ends after 2 kB,
    which other chunks can fill, so the chunks are walked here. A truncated FLAC shows itself in `_read`.
    """
    with path.open("rb") as raw:
        if raw.read(12)[:4] not in (b"RIFF", b"RF64"):
            return 0, 0
        rf64_length = 0
        while len(head := raw.read(8)) == 8:
            length = int.from_bytes(head[4:], "little")
            if head[:4] == b"data":
                promised = rf64_length or (0 if length in LENGTH_UNKNOWN else length)
                return promised, path.stat().st_size - raw.tell()
            chunk = raw.tell()
            if head[:4] == b"ds64":  # the sizes, in 64 bits, of the whole file and of its audio
                rf64_length = int.from_bytes(raw.read(16)[8:], "little")
            raw.seek(chunk + length + length % 2)
    return 0, 0


def _read(file: AudioFile, start: int, frames: int) -> NDArray[np.float32]:
    """Samples [frames] from `start` on; PairError if the file does not yield them, as a truncated FLAC."""
    samples = np.zeros(0, np.float32)
    with contextlib.suppress(soundfile.SoundFileError):
        if file.tell() != start:
            file.seek(start)
        samples = file.read(frames, dtype="float32")
    if len(samples) < frames:
        raise PairError(
            f"{file.name} is truncated or damaged: not all of samples {start} to {start + frames} (from "
            f"{start / file.samplerate:.3f} s on) can be read. Copy or export it again."
        )
    return samples


def blocks_of(file: AudioFile, size: int, frames: int | None = None) -> Iterator[NDArray[np.float32]]:
    """The whole file, or its first `frames` samples, in arrays [size]; the last may be shorter."""
    end = file.frames if frames is None else frames
    for start in range(0, end, size):
        yield _read(file, start, min(size, end - start))


def span(frames: int, sample_rate: int) -> str:
    """A length in words: samples and milliseconds."""
    return f"{frames} frames ({1000 * frames / sample_rate:.1f} ms)"


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).rstrip(".")
