"""Recordings out of archives of unknown make, without trust in what an archive says of itself.

A recording is a regular file `.../{train,val,test}/DEVICE-{input,target}.wav`, wherever in the archive that
lies; an archive's own name counts as a folder around it, for a train.zip. Nothing else is ever written.
"""

import errno
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import IO

from klann_lightning.download.fetch import amount
from klann_lightning.errors import DownloadError
from klann_lightning.files import replacing

ENDINGS = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|tar\.(gz|bz2|xz))$", re.IGNORECASE)
RECORDING = re.compile(r"(?:^|/)(train|val|test)/([^/]+)-(input|target)\.wav$", re.IGNORECASE)
UNSAFE = re.compile(r"^/|^[A-Za-z]:|(^|/)\.\.(/|$)")
NOT_IN_NAMES = re.compile(r'[<>:"|?*]')  # some systems have no files named so
GROWTH = 100  # times an archive's size; no recording shrinks to a hundredth
HARMLESS = 64 << 20  # bytes that an archive may always unpack to
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, RuntimeError, ValueError)
Member = tuple[str, int, str, bool, bool]  # name, bytes, checksum, is a file or folder, needs a password


@dataclass(frozen=True)
class Recording:
    """One file of a pair, and what it should be."""

    split: str  # train, val or test
    device: str
    side: str  # input or target
    member: str  # its name in the archive
    size: int  # bytes
    checksum: str  # "crc32:0123abcd", as the record has it where it lies there by itself, or empty

    def path(self, root: Path) -> Path:
        return root / self.split / f"{self.device}-{self.side}.wav"


def is_archive(name: str) -> bool:
    """Whether a file so named can be unpacked.

    >>> [name for name in ("a.zip", "b.tar.GZ", "c.rar", "d.wav") if is_archive(name)]
    ['a.zip', 'b.tar.GZ']
    """
    return ENDINGS.search(name) is not None


def recording(member: str, size: int, checksum: str, archive: str = "") -> Recording | None:
    """The recording that a file of that name is, if it is one.

    >>> recording("data/train/la2a-take1-input.wav", 44, "").device
    'la2a-take1'
    >>> recording("la2a-input.wav", 44, "", "val.zip").split
    'val'
    >>> recording("__MACOSX/train/._la2a-input.wav", 44, "")
    """
    name = f"{ENDINGS.sub('', archive)}/{member}".replace("\\", "/")
    found = RECORDING.search(name)
    if found is None or "__MACOSX" in name.split("/"):
        return None
    split, device, side = found.groups()
    if device.startswith((".", "-")) or not device.isprintable() or NOT_IN_NAMES.search(device):
        return None
    return Recording(split.lower(), device, side.lower(), member, size, checksum)


def recordings_in(archive: Path, name: str) -> list[Recording]:
    """All recordings of an archive that is called `name` where it comes from.

    Raises DownloadError if it cannot be read, or holds what no archive of recordings holds: a way out of its
    folder, links, devices, passwords, two different files in one place, or far more bytes than it has itself.
    """
    with _readable(archive):
        has = archive.stat().st_size
        total = 0
        found: dict[Path, Recording] = {}
        for member, size, checksum, plain, locked in (_zip if _zipped(name) else _tar)(archive):
            part = recording(member, size, checksum, name)
            if UNSAFE.search(member.replace("\\", "/")):
                raise _refusal(archive, f"{member!r} leads out of it")
            if not plain:
                raise _refusal(archive, f"{member!r} is a link or a device, not a file")
            if part and locked:
                raise _refusal(archive, f"{member} needs a password")
            total += size if part or not _zipped(name) else 0  # all of a tar is unpacked to get past it
            if total > max(GROWTH * has, HARMLESS):
                becomes = f"its {amount(has)} would become {amount(total)} or more"
                raise _refusal(archive, f"{becomes}, which no recordings do")
            if part:
                first = found.setdefault(part.path(Path()), part)
                if (first.size, first.checksum) != (size, checksum):
                    raise _refusal(archive, f"{first.member} and {member} differ, and belong in one place")
        return list(found.values())


def unpack(archive: Path, name: str, wanted: Sequence[Recording], root: Path) -> None:
    """Write recordings of an archive, each whole or not at all, in place of what is there.

    Raises DownloadError where they are not what the archive's list says, OSError as the disk does.
    """
    with _readable(archive):
        if _zipped(name):
            with zipfile.ZipFile(archive) as zipped:
                for part in wanted:
                    with zipped.open(part.member) as source:
                        _write(source, part, archive, root)
            return
        left = {part.member: part for part in wanted}
        with tarfile.open(archive) as tape:
            for info in tape:  # in their order: a compressed tape cannot be wound back
                if info.name in left and (data := tape.extractfile(info)):
                    _write(data, left.pop(info.name), archive, root)


def _zipped(name: str) -> bool:
    return name.lower().endswith(".zip")


def _zip(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            plain = stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR)
            yield info.filename, info.file_size, f"crc32:{info.CRC:08x}", plain, bool(info.flag_bits & 1)


def _tar(archive: Path) -> Iterator[Member]:
    """A tar has no checksums, and no passwords."""
    with tarfile.open(archive) as tape:
        for info in tape:
            name = f"{info.name}/" if info.isdir() else info.name
            yield name, info.size, "", info.isreg() or info.isdir(), False


def _write(source: IO[bytes], part: Recording, archive: Path, root: Path) -> None:
    with replacing(part.path(root)) as aside:
        size = 0
        with aside.open("wb") as file:
            while size <= part.size and (block := source.read(1 << 20)):
                size += file.write(block)
        if size != part.size:
            raise _refusal(archive, f"{part.member} is not what the archive's list says")


def _refusal(archive: Path, why: str) -> DownloadError:
    return DownloadError(
        f"{archive} is not unpacked: {why}. If you trust it, unpack it yourself; else delete it and tell "
        "the record's authors."
    )


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    try:
        yield
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk's; for bad bytes gzip and bz2 give no number, and zips lead before the start
        why = str(error).partition("\n")[0].rstrip(".:") or type(error).__name__
        raise DownloadError(
            f"{archive} cannot be unpacked: {why}. Delete it to fetch it again, or unpack it with another "
            "program."
        ) from error
