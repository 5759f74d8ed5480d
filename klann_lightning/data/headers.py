"""What can be said of a file before it is decoded: whether it is one, and holds what its header promises.

libsndfile silently reads a truncated file as a shorter one.
"""

from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from klann_lightning.errors import PairError
from klann_lightning.files import shown

# Who writes WAV into a pipe cannot know its length, and promises nearly 2 or 4 GiB instead, or -1.
LENGTH_UNKNOWN = (range(2**31 - 4096, 2**31 + 1), range(2**32 - 4096, 2**32), range(2**64 - 1, 2**64))
MOST_CHUNKS = 10_000  # walked through before giving up


class _Chunks(NamedTuple):
    """How a container lays out its chunks, and which of them holds the audio."""

    first: int  # where the first chunk begins, in bytes
    order: Literal["little", "big"]
    identifier: int  # bytes of a chunk's name
    size: int  # bytes of its length
    padding: int  # a chunk begins at a multiple of this
    audio: tuple[bytes, ...]  # how the names of chunks with audio begin
    counts_head: bool = False  # the length counts the chunk's name and length too
    overhead: int = 0  # bytes in the chunk before the audio


_CONTAINERS = {
    b"RIFF": _Chunks(12, "little", 4, 4, 2, (b"data",)),
    b"RF64": _Chunks(12, "little", 4, 4, 2, (b"data",)),
    b"RIFX": _Chunks(12, "big", 4, 4, 2, (b"data",)),
    b"FORM": _Chunks(12, "big", 4, 4, 2, (b"SSND",), overhead=8),
    b"caff": _Chunks(8, "big", 4, 8, 1, (b"data",), overhead=4),
    b"riff": _Chunks(40, "little", 16, 8, 8, (b"data",), counts_head=True),  # Wave 64
}


def audio_bytes(path: Path) -> tuple[int, int]:
    """Bytes of audio that the header promises, and bytes that follow it.

    Of RIFF, RF64, AIFF, CAF, Wave 64 and AU; promised is 0 where the length is said to be unknown. Of any
    other container (0, 0). libsndfile's log, where it says that a file is cut, ends after 2 kB, which other
    chunks can fill, so the chunks are walked here.
    """
    size = path.stat().st_size
    with path.open("rb") as raw:
        start = raw.read(12)
        if start[:4] in (b".snd", b"dns."):
            order: Literal["little", "big"] = "big" if start[:4] == b".snd" else "little"
            return _promised(int.from_bytes(start[8:], order)), size - int.from_bytes(start[4:8], order)
        chunks = _CONTAINERS.get(start[:4])
        return (0, 0) if chunks is None else _walk(raw, chunks, size)


def _walk(raw: BinaryIO, chunks: _Chunks, size: int) -> tuple[int, int]:
    place, long_length = chunks.first, 0
    for _ in range(MOST_CHUNKS):
        raw.seek(place)
        head = raw.read(chunks.identifier + chunks.size)
        body = place + len(head)
        if len(head) < chunks.identifier + chunks.size:
            break
        length = int.from_bytes(head[chunks.identifier :], chunks.order)
        if head.startswith(chunks.audio):
            promised = long_length or _promised(length)
            promised -= (len(head) if chunks.counts_head else 0) + chunks.overhead
            return max(promised, 0), max(size - body - chunks.overhead, 0)
        if head[:4] == b"ds64":  # the sizes, in 64 bits, of the whole file and of its audio
            long_length = int.from_bytes(raw.read(16)[8:], "little")
        end = max(body, place + length) if chunks.counts_head else body + length
        place = end + -end % chunks.padding
        if place > size:
            break
    return 0, 0


def _promised(length: int) -> int:
    return 0 if any(length in unknown for unknown in LENGTH_UNKNOWN) else length


def ogg_is_cut(path: Path) -> bool:
    """Whether the last page of an Ogg file is not whole, or does not say that it is the last one."""
    with path.open("rb") as raw:
        raw.seek(max(path.stat().st_size - 2 * 65_307, 0))  # the longest page
        end = raw.read()
    page = end[end.rfind(b"OggS") :] if b"OggS" in end else b""
    lengths = page[27 : 27 + page[26]] if len(page) > 26 else b""
    if len(page) < 27 or len(page) < 27 + page[26] + sum(lengths):
        return bool(page)
    return not page[5] & 4


def mp3_says_length(path: Path) -> bool:
    """Whether an MP3 file counts its frames; where it does not, its length is guessed from its first ones."""
    with path.open("rb") as raw:
        start = raw.read(10)
        if start[:3] == b"ID3":
            raw.seek(10 + sum(byte << 7 * power for power, byte in enumerate(reversed(start[6:]))))
        else:
            raw.seek(0)
        first_frames = raw.read(16_384)
    return any(tag in first_frames for tag in (b"Xing", b"Info", b"VBRI"))


def check_is_file(path: Path) -> None:
    """PairError for what is no regular file, or holds nothing."""
    name = shown(path)
    if path.is_dir():
        raise PairError(f"{name} is a folder, not an audio file.", "Name a file in it.", "folder")
    if not path.exists():
        leads = (
            f" (it is a link to {shown(path.readlink())}, which is not there)" if path.is_symlink() else ""
        )
        raise PairError(f"no such file: {name}{leads}.", "Check its name and its folder.", "missing_file")
    if not path.is_file():
        raise PairError(
            f"{name} is not a regular file, but a pipe, a device or a socket.",
            "Write its audio to a file, and name that.",
            "special_file",
        )
    if path.stat().st_size == 0:
        raise PairError(
            f"{name} has 0 bytes, so it is no audio file.", "Copy or export it again.", "empty_file"
        )
