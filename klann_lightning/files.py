"""Files that are whole or not there, whatever ends the process that writes them; stamps and names."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PART = ".part-"  # how the names of files begin that are not whole yet


def write_whole(path: Path, text: str) -> None:
    """A text file, UTF-8, its line ends as they are in the text."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8", newline="")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to write, which then takes the path's place at once, also where several processes do that.

    What was there before stays whole until the new one is on the disk. Parent folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{PART}{os.getpid()}-{path.name}")  # by its ending some writers know the format
    try:
        yield aside
        _sync(aside)
        aside.replace(path)
        with suppress(OSError):  # a folder cannot be opened everywhere
            _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)  # a half, where the writing failed


def stamp(path: Path) -> tuple[int, int] | None:
    """By which a file differs from its successor of the same name; None where there is no file."""
    with suppress(OSError, ValueError):  # ValueError: a name that none can have
        status = path.stat()
        return status.st_size, status.st_mtime_ns
    return None


def shown(path: Path | str | bytes) -> str:
    """A path as it can be printed, whatever bytes its name holds."""
    return os.fsencode(path).decode(errors="backslashreplace")


def remove_parts(folder: Path) -> None:
    """Remove the halves that a process has left which was killed while it wrote."""
    for part in folder.glob(f"{PART}*"):
        part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until it is on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
