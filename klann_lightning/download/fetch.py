"""One file over HTTP, whole and with the right checksum; a transfer that broke off goes on where it stopped.

What has come lies in `<name>.part` until it is whole, in `<name>.part.tag` what the server calls that version
of the file. Both outlive the process. Only one process may fetch into a folder at a time.
"""

import hashlib
import os
import re
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm

from klann_lightning.download.link import AbsentError, Link, PassingError, ServerError, host_of, say
from klann_lightning.manners import hushed

BLOCK = 1 << 16  # bytes that are taken at once; so many at most are lost where a transfer breaks off
EVERY = 10.0  # seconds between two lines of progress where there is no terminal
CHECKSUMS = ("md5", "sha1", "sha256", "sha512")


@dataclass(frozen=True)
class Remote:
    """A file on a server."""

    name: str
    urls: tuple[str, ...]  # the next is asked where the one before has no such file
    size: int  # bytes
    checksum: str  # "md5:0123...", or empty where none is known


class WrongError(Exception):
    """What comes is not the file."""


def fetch(link: Link, remote: Remote, path: Path) -> None:
    """Bring a file to `path`; what an earlier call left in its part is gone on with.

    What turns out wrong is thrown away and fetched once more from the start.
    Raises ServerError where the server, the network or the bytes are at fault, OSError where this machine
    is. What has come stays in its part, unless it is wrong.
    """
    kind = remote.checksum.partition(":")[0].lower()
    if kind and kind not in CHECKSUMS:
        known = ", ".join(CHECKSUMS)
        raise ServerError(f"{remote.name} has a checksum of the kind {kind!r}, which is none of {known}.")
    part, tag = _beside(path)
    for last in (False, True):
        try:
            link.patiently(remote.name, lambda: _receive(link, remote, path), lambda: fetched(path))
            wrong = difference(part, remote.size, remote.checksum)
        except WrongError as error:
            wrong = str(error)
        tag.unlink(missing_ok=True)
        if not wrong:
            part.replace(path)
            say(f"{remote.name}: {amount(remote.size)} fetched")
            return
        part.unlink(missing_ok=True)
        if not last:
            say(f"{remote.name} came wrong: {wrong}; once more from the start")
    raise ServerError(
        f"{remote.name} came wrong from {host_of(remote.urls[0])}, twice: {wrong}. What came is thrown away. "
        "Try again later, or from another network."
    )


def fetched(path: Path) -> int:
    """How many bytes have come of a file that is on its way to `path`."""
    part, _ = _beside(path)
    return part.stat().st_size if part.exists() else 0


def difference(path: Path, size: int, checksum: str) -> str:
    """In words, what a file is otherwise than it should be; empty if nothing, or if there is no checksum.

    `size` is in bytes; a checksum is "crc32:0123abcd", or of a kind of hashlib.
    """
    there = path.stat().st_size
    if there != size:
        return f"it has {there} bytes, not {size}"
    kind, _, expected = checksum.lower().partition(":")
    made = _sum(path, kind) if kind else expected
    return "" if made == expected else f"its {kind} checksum is {made}, not {expected}"


def amount(size: float) -> str:
    """Bytes in words.

    >>> amount(812_345_678), amount(999), amount(12_000)
    ('812.3 MB', '999 bytes', '12.0 kB')
    """
    for unit, worth in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= worth:
            return f"{size / worth:.1f} {unit}"
    return f"{size:.0f} bytes"


def _sum(path: Path, kind: str) -> str:
    with path.open("rb") as file:
        if kind == "crc32":
            crc = 0
            while block := file.read(1 << 20):
                crc = zlib.crc32(block, crc)
            return f"{crc:08x}"
        # a system may forbid MD5 for anything else
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _beside(path: Path) -> tuple[Path, Path]:
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.tag")


def _receive(link: Link, remote: Remote, path: Path) -> None:
    part, tag = _beside(path)
    if fetched(path) > remote.size:
        part.unlink()
    have = fetched(path)
    if have == remote.size > 0:
        return
    headers = {"Accept-Encoding": "identity"}  # so that a range counts the file's own bytes
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.exists() and (version := tag.read_text(encoding="latin-1")):
            headers["If-Range"] = version
    for url in remote.urls:
        try:
            with link.asked(url, headers) as answer:
                return _store(answer, remote, path, have)
        except AbsentError:
            continue
    raise ServerError(f"{host_of(remote.urls[0])} has no file {remote.name}, though its list names it.")


def _begins(answer: requests.Response, remote: Remote, have: int) -> int:
    """The byte of the file that the answer's body begins with: that after those we have, or the first."""
    host, size = host_of(answer.url), remote.size
    if answer.status_code == 416:
        raise WrongError(f"{host} has less of it than the {have} bytes that came before")
    if answer.status_code == 206:
        said = answer.headers.get("Content-Range", "")
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", said.strip())
        if found is None or int(found[1]) != have or found[2] not in ("*", str(size)):
            raise WrongError(f"asked for bytes {have} to {size}, {host} sends {said or 'others'!r}")
        say(f"{remote.name}: goes on after {amount(have)} of {amount(size)}")
        return have
    promised = answer.headers.get("Content-Length", str(size))
    if promised != str(size):
        raise WrongError(f"{host} sends {promised} bytes, not {size}")
    return 0


def _store(answer: requests.Response, remote: Remote, path: Path, have: int) -> None:
    """Append the answer's body to the part, or begin a new one where the server begins the file anew."""
    part, tag = _beside(path)
    host, size = host_of(answer.url), remote.size
    have = _begins(answer, remote, have)
    # What an If-Range may name: a tag that promises equal bytes, or a date.
    version = answer.headers.get("ETag", "")
    version = version if version.startswith('"') else answer.headers.get("Last-Modified", "")
    tag.write_text(version, encoding="latin-1")
    with (
        part.open("ab" if have else "wb") as file,
        tqdm(
            desc=remote.name,
            initial=have,
            total=size,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=hushed() or None,  # None: where it is no terminal
        ) as bar,
    ):
        since = time.monotonic()
        for block in answer.iter_content(BLOCK):
            have += len(block)
            if have > size:
                raise WrongError(f"{host} sends more than its {size} bytes")
            file.write(block)
            bar.update(len(block))
            if bar.disable and time.monotonic() - since > EVERY:
                since = time.monotonic()
                say(f"{remote.name}: {amount(have)} of {amount(size)}")
        file.flush()
        os.fsync(file.fileno())
    if have < size:
        raise PassingError(f"{host} broke off after {have} of {size} bytes")
