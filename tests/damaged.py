"""Damaged, odd and sound single files, made on the spot, each with the findings that it must end in."""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

RATE = 44100
Sound = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """How to make one file in a folder, and the names and severities that its intake must find."""

    name: str
    make: Callable[[Path], Path]
    expected: dict[str, str] = field(default_factory=dict)
    side: str = "input"


def sound(seconds: float = 1.5, rate: int = RATE, seed: int = 0) -> Sound:
    """Plucked notes over a little noise, peak 0.5: fine in every respect. [T]"""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    played = rng.normal(0, 1e-4, len(t))
    for start in np.arange(0, seconds, 0.25):
        later = np.maximum(t - start, 0)
        pluck = np.exp(-6 * later) * (1 - np.exp(-later / 0.002)) * (t >= start)
        for harmonic in range(1, 9):
            phase = 2 * np.pi * rng.random()
            played += pluck * np.sin(2 * np.pi * harmonic * rng.uniform(80, 300) * later + phase) / harmonic
        played += 0.02 * pluck * rng.normal(size=len(t))
    return played * (0.5 / np.abs(played).max())


def wav(
    x: NDArray, encoding: str = "FLOAT", rate: int = RATE, kind: str = "WAV", name: str | bytes = "x.wav"
) -> Callable[[Path], Path]:
    """Write the samples [T] or [T, channels], scaled by nobody."""

    def make(folder: Path) -> Path:
        path = folder / os.fsdecode(name)
        with open(path, "wb") as file:  # soundfile takes no names that are no text
            soundfile.write(file, x, rate, encoding, format=kind)
        return path

    return make


def changed(make: Callable[[Path], Path], change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """The file that `make` writes, with other bytes."""

    def made(folder: Path) -> Path:
        path = make(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return made


def content(data: bytes, name: str = "x.wav") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def put(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


def with_silent_bits(x: Sound, bits: int) -> Sound:
    """Rounded to a grid of so many bits from -1 to 1."""
    return np.round(x * 2 ** (bits - 1)) / 2 ** (bits - 1)


def with_holes(x: Sound, *holes: tuple[int, int]) -> Sound:
    x = x.copy()
    for start, length in holes:
        x[start : start + length] = 0
    return x


def with_values(x: Sound, at: list[int], value: float) -> Sound:
    x = x.copy()
    x[at] = value
    return x


def band_limited(x: Sound, hz: float, rate: int = RATE) -> Sound:
    spectrum = np.fft.rfft(x)
    spectrum[np.fft.rfftfreq(len(x), 1 / rate) > hz] = 0
    return np.fft.irfft(spectrum, len(x))


def noisy(seconds: float = 1.5, rate: int = RATE) -> Sound:
    return np.random.default_rng(5).normal(0, 0.1, round(seconds * rate))


def _link(folder: Path) -> Path:
    (folder / "link.wav").symlink_to(wav(sound())(folder))
    return folder / "link.wav"


def _broken_link(folder: Path) -> Path:
    (folder / "link.wav").symlink_to(folder / "gone.wav")
    return folder / "link.wav"


def _loop(folder: Path) -> Path:
    (folder / "a.wav").symlink_to(folder / "b.wav")
    (folder / "b.wav").symlink_to(folder / "a.wav")
    return folder / "a.wav"


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.wav")
    return folder / "pipe.wav"


def _folder(folder: Path) -> Path:
    (folder / "x.wav").mkdir()
    return folder / "x.wav"


def _big_endian(data: bytes) -> bytes:
    """A 16-bit RIFF file as RIFX."""
    samples = np.frombuffer(data[44:], "<i2").astype(">i2").tobytes()
    head = struct.unpack("<4xI8xIHHIIHH4xI", data[:44])
    return struct.pack(
        ">4sI4s4sIHHIIHH4sI", b"RIFX", head[0], b"WAVE", b"fmt ", *head[1:8], b"data", head[8]
    ) + (samples)


def _streamed_flac(data: bytes) -> bytes:
    """STREAMINFO without its number of samples."""
    return put(data, 21, bytes([data[21] & 0xF0]) + bytes(4))


X = sound()
PCM, STEREO = wav(X, "PCM_16"), np.stack([X, X], axis=1)
LOUD = np.clip(3 * X, -1, 1)
BLOCKED: dict[str, dict[str, str]] = {
    name: {name: "blocks"}
    for name in (
        *("missing_file", "folder", "special_file", "empty_file", "unreadable", "truncated", "damaged"),
        *("no_frames", "length_unknown", "not_finite", "silent", "too_short"),
    )
}

UNUSABLE = [
    Case("missing", lambda folder: folder / "none.wav", BLOCKED["missing_file"]),
    Case("missing folder", lambda folder: folder / "none" / "x.wav", BLOCKED["missing_file"]),
    Case("a file as a folder", lambda folder: PCM(folder) / "x.wav", BLOCKED["missing_file"]),
    Case("broken link", _broken_link, BLOCKED["missing_file"]),
    Case("links in a circle", _loop, BLOCKED["missing_file"]),
    Case("name with a zero byte", lambda folder: folder / "a\0.wav", BLOCKED["missing_file"]),
    Case("name of 5000 letters", lambda folder: folder / ("x" * 5000), BLOCKED["unreadable"]),
    Case("folder", _folder, BLOCKED["folder"]),
    Case("pipe", _fifo, BLOCKED["special_file"]),
    Case("device", lambda folder: Path("/dev/zero"), BLOCKED["special_file"]),
    Case("no bytes", content(b""), BLOCKED["empty_file"]),
    Case("text", content(b"this is not audio\n" * 99), BLOCKED["unreadable"]),
    Case("text named mp3", content(b"this is not audio\n" * 99, "x.mp3"), BLOCKED["unreadable"]),
    Case("web page", content(b"<!DOCTYPE html><html><body>404</body></html>"), BLOCKED["unreadable"]),
    Case("zip", content(b"PK\x03\x04" + bytes(range(256)) * 9), BLOCKED["unreadable"]),
    Case("zeros", content(bytes(5000)), BLOCKED["unreadable"]),
    Case("random bytes", content(np.random.default_rng(3).bytes(9999)), BLOCKED["unreadable"]),
    Case("headerless", wav(X, "PCM_16", kind="RAW", name="x.raw"), BLOCKED["unreadable"]),
    Case("header alone", changed(PCM, lambda data: data[:20]), BLOCKED["unreadable"]),
    Case("no fmt chunk", changed(PCM, lambda data: put(data, 12, b"junk")), BLOCKED["unreadable"]),
    Case("unknown coding", changed(PCM, lambda data: put(data, 20, b"\x77\x77")), BLOCKED["unreadable"]),
    Case("rate of 4 GHz", changed(PCM, lambda data: put(data, 24, b"\xff" * 4)), BLOCKED["unreadable"]),
    Case(
        "rate of 3 MHz",
        changed(PCM, lambda data: put(data, 24, struct.pack("<I", 3_000_000))),
        BLOCKED["damaged"],
    ),
    Case("65535 channels", changed(PCM, lambda data: put(data, 22, b"\xff\xff")), BLOCKED["unreadable"]),
    Case("WAV cut in half", changed(PCM, lambda data: data[: len(data) // 2]), BLOCKED["truncated"]),
    Case("WAV cut by a byte", changed(PCM, lambda data: data[:-1]), BLOCKED["truncated"]),
    Case("WAV cut behind its header", changed(PCM, lambda data: data[:44]), BLOCKED["truncated"]),
    Case(
        "WAV that claims 1 GB", changed(PCM, lambda data: put(data, 40, b"\0\0\0\x40")), BLOCKED["truncated"]
    ),
    *[
        Case(
            f"{kind} cut in half",
            changed(
                wav(sound(rate=rate), encoding, rate, kind, f"x.{kind}"), lambda data: data[: len(data) // 2]
            ),
            BLOCKED["truncated"],
        )
        for kind, encoding, rate in [
            ("RF64", "PCM_24", RATE),
            ("W64", "PCM_16", RATE),
            ("AIFF", "PCM_24", RATE),
            ("AU", "FLOAT", RATE),
            ("CAF", "PCM_16", RATE),
            ("FLAC", "PCM_16", RATE),
            ("OGG", "VORBIS", RATE),
        ]
    ],
    Case(
        "Opus without its last page",
        changed(wav(sound(rate=48000), "OPUS", 48000, "OGG"), lambda data: data[:-99]),
        BLOCKED["truncated"],
    ),
    Case(
        "FLAC with a hole",
        changed(wav(X, "PCM_16", kind="FLAC"), lambda data: put(data, len(data) // 2, bytes(400))),
        BLOCKED["damaged"],
    ),
    Case("no samples", wav(X[:0], "PCM_16"), BLOCKED["no_frames"]),
    Case("interrupted recorder", changed(PCM, lambda data: put(data, 40, bytes(4))), BLOCKED["no_frames"]),
    Case("streamed FLAC", changed(wav(X, "PCM_16", kind="FLAC"), _streamed_flac), BLOCKED["length_unknown"]),
    Case("NaN", wav(with_values(X, [100, 60000], np.nan)), BLOCKED["not_finite"]),
    Case("infinity", wav(with_values(X, [66149], -np.inf)), BLOCKED["not_finite"]),
    Case("beyond float32", wav(with_values(X, [5], 1e300), "DOUBLE"), BLOCKED["not_finite"]),
    Case("all NaN", wav(np.full(RATE, np.nan)), BLOCKED["not_finite"]),
    Case("silence", wav(np.zeros(RATE), "PCM_16"), BLOCKED["silent"]),
    Case("constant", wav(np.full(RATE, 0.25)), BLOCKED["silent"]),
    Case("0.4 s", wav(X[: int(0.4 * RATE)]), BLOCKED["too_short"]),
    Case("one sample", wav(X[:1]), {"silent": "blocks", "too_short": "blocks"}),
]

HARMED = [
    Case("clipped", wav(LOUD, "PCM_16"), {"clipped": "harms"}),
    Case("clipped target", wav(LOUD, "PCM_24"), {"clipped": "harms"}, "target"),
    Case("clipped float", wav(LOUD), {"clipped": "harms"}),
    Case(
        "clipped on one side",
        wav(np.where(X > 0, LOUD, 0.99 * np.tanh(3 * X)), "PCM_16"),
        {"clipped": "harms"},
    ),
    Case("clipped, then turned down", wav(0.5 * LOUD, "PCM_24"), {"flat_tops": "harms"}),
    Case("clipped device", wav(0.5 * LOUD, "PCM_24"), {"flat_tops": "note"}, "target"),
    Case("rectifier", wav(np.maximum(X, 0) - np.maximum(X, 0).mean()), {"flat_tops": "note"}, "target"),
    Case(
        "half waves",
        wav(0.4 * np.sin(np.arange(RATE) * 0.05).clip(0) - 0.12),
        {"flat_tops": "note"},
        "target",
    ),
    Case("above full scale", wav(2.5 * X), {"over_full_scale": "note"}),
    Case("numbers of 16 bit", wav(with_silent_bits(X, 16) * 2**15), {"over_full_scale": "harms"}),
    Case("quiet", wav(0.015 * X, "PCM_24"), {"low_level": "harms"}),
    Case("quiet float", wav(0.015 * X), {"low_level": "note"}),
    Case("nearly nothing", wav(1e-7 * X), {"low_level": "harms"}),
    Case("offset", wav(X + 0.1, "PCM_16"), {"offset": "harms"}),
    Case("offset target", wav(X + 0.1, "PCM_16"), {"offset": "note"}, "target"),
    Case("8 bit", wav(X, "PCM_U8"), {"low_resolution": "harms"}),
    Case("8 bit in 16", wav(with_silent_bits(X, 8), "PCM_16"), {"low_resolution": "harms"}),
    Case("12 bit in float", wav(with_silent_bits(X, 12)), {"low_resolution": "harms"}),
    Case("8 bit, turned up", wav(1.37 * with_silent_bits(X, 8)), {"low_resolution": "harms"}),
    Case(
        "8 bit, turned up, in 16", wav(1.37 * with_silent_bits(X, 8), "PCM_16"), {"low_resolution": "harms"}
    ),
    Case("half float", wav(X.astype(np.float16).astype(np.float32)), {"low_resolution": "note"}),
    Case("square wave", wav(0.5 * np.sign(X)), {"low_resolution": "note"}),
    Case("silent right", wav(np.stack([X, 0 * X], 1)), {"silent_channel": "note"}),
    Case("silent left", wav(np.stack([0 * X, X], 1)), {"silent_channel": "note"}),
    Case("equal channels", wav(STEREO, "PCM_16"), {"equal_channels": "note"}),
    Case("nearly equal", wav(np.stack([X, X + 1e-5 * noisy()], 1)), {"equal_channels": "note"}),
    Case("stereo", wav(np.stack([0.5 * X, sound(seed=1)], 1)), {"several_channels": "harms"}),
    Case("upside down", wav(np.stack([X, -X], 1)), {"several_channels": "harms"}),
    Case(
        "six channels",
        wav(np.stack([sound(seed=seed) for seed in range(6)], 1)),
        {"several_channels": "harms"},
    ),
    Case(
        "dropouts", wav(with_holes(X, (12000, 256), (33000, 64), (65400, 400)), "PCM_16"), {"gaps": "harms"}
    ),
    Case("dropout in noise", wav(with_holes(noisy(), (40000, 128))), {"gaps": "harms"}),
    Case("silence first", wav(np.concatenate([np.zeros(2 * RATE), X])), {"silence_at_ends": "note"}),
    Case("silence last", wav(np.concatenate([X, np.zeros(2 * RATE)])), {"silence_at_ends": "note"}),
    Case(
        "one note in 20 s",
        wav(np.concatenate([X, 1e-5 * noisy(20)]), "PCM_24"),
        {"mostly_silent": "harms"},
    ),
    Case("MP3", wav(sound(4), "MPEG_LAYER_III", kind="MP3", name="x.mp3"), {"lossy": "note"}),
    Case(
        "MP3 target", wav(sound(4), "MPEG_LAYER_III", kind="MP3", name="x.mp3"), {"lossy": "harms"}, "target"
    ),
    Case("Vorbis", wav(X, "VORBIS", kind="OGG", name="x.ogg"), {"lossy": "note"}),
    Case("Opus", wav(sound(rate=48000), "OPUS", 48000, "OGG", "x.opus"), {"lossy": "note"}),
    Case("mu-law", wav(X, "ULAW", kind="AU", name="x.au"), {"lossy": "harms"}, "target"),
    Case("IMA ADPCM", wav(X, "IMA_ADPCM"), {"lossy": "harms"}, "target"),
    Case("GSM", wav(sound(rate=8000), "GSM610", 8000), {"lossy": "harms", "unusual_rate": "note"}, "target"),
    Case("from 16 kHz", wav(band_limited(noisy(), 7600)), {"band_limited": "harms"}),
    Case("as MP3 leaves it", wav(band_limited(noisy(), 16000)), {"band_limited": "note"}),
    Case(
        "from 44.1 kHz",
        wav(band_limited(noisy(rate=96000), 21800, 96000), rate=96000),
        {"band_limited": "note"},
    ),
    Case("dark target", wav(band_limited(noisy(), 7600)), {"band_limited": "note"}, "target"),
    Case("11025 Hz", wav(sound(rate=11025), rate=11025), {"unusual_rate": "note"}),
    Case("44056 Hz", wav(sound(rate=44056), rate=44056), {"unusual_rate": "note"}),
]

FINE = [
    *[
        Case(f"{kind} {encoding}", wav(X, encoding, kind=kind, name=f"x.{kind.lower()}"))
        for kind, encoding in [
            ("WAV", "PCM_16"),
            ("WAV", "PCM_24"),
            ("WAV", "PCM_32"),
            ("WAV", "FLOAT"),
            ("WAV", "DOUBLE"),
            ("WAVEX", "PCM_24"),
            ("RF64", "PCM_16"),
            ("W64", "PCM_24"),
            ("AIFF", "PCM_16"),
            ("AIFF", "FLOAT"),
            ("CAF", "PCM_24"),
            ("CAF", "ALAC_16"),
            ("AU", "PCM_16"),
            ("FLAC", "PCM_16"),
            ("FLAC", "PCM_24"),
            ("NIST", "PCM_16"),
            ("MAT5", "FLOAT"),
            ("VOC", "PCM_16"),
            ("PVF", "PCM_16"),
        ]
    ],
    Case("RIFX", changed(PCM, _big_endian)),
    Case("a little Hz", wav(sound(rate=48000), "PCM_24", 48000)),
    Case("96 kHz", wav(sound(rate=96000), "PCM_24", 96000)),
    Case("just long enough", wav(X[: RATE // 2])),
    Case("another suffix", wav(X, name="x.mp3")),
    Case("no suffix", wav(X, "PCM_16", kind="FLAC", name="x")),
    Case("spaces and accents", wav(X, name="Gitarre \u2013 sch\u00f6n \U0001f3b8.wav")),
    Case("two lines", wav(X, name="a\nb.wav")),
    Case("name that is no text", wav(X, name=b"caf\xe9.wav")),
    Case("link", _link),
    Case("WAV from a pipe", changed(PCM, lambda data: put(data, 40, b"\xff" * 4))),
    Case("bytes behind the audio", changed(PCM, lambda data: data + b"LIST\x04\0\0\0abcd")),
    Case("steady 50 Hz at full scale", wav(np.sin(np.arange(2 * RATE) * 2 * np.pi * 50 / RATE), "PCM_16")),
    Case("soft distortion", wav(0.5 * np.tanh(30 * X)), side="target"),
    Case("noise", wav(noisy(), "PCM_16")),
    Case("bursts of noise", wav(noisy() * (np.arange(len(X)) % 4410 < 2205), "PCM_16")),
    Case("tremolo", wav(X * (np.arange(len(X)) % 8820 < 4410), "PCM_24"), side="target"),
    Case("hard gate", wav(np.where(np.abs(X) > 0.05, X, 0), "PCM_24"), side="target"),
    Case("fading into silence", wav(np.round(X * np.exp(-np.arange(len(X)) / 6000) * 900) / 2**15, "PCM_16")),
    Case("pauses", wav(np.concatenate([X, np.zeros(RATE // 2), X]))),
]
CASES = UNUSABLE + HARMED + FINE
