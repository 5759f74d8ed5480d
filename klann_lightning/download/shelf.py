"""The files of a record, as far as they are here, and which recordings each of them holds.

What was once found in an archive is noted in contents.json, so that nobody fetches an archive again to learn
that nothing in it is missing.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from klann_lightning.download.fetch import Remote, amount, difference, fetch, fetched
from klann_lightning.download.link import Link, ServerError
from klann_lightning.download.record import Record
from klann_lightning.download.unpack import Recording, is_archive, recording, recordings_in, unpack
from klann_lightning.errors import DownloadError
from klann_lightning.files import replacing, write_whole

Contents = dict[Remote, list[Recording]]


class Shelf:
    """Fetches a record's files into a folder of `root` and takes recordings out of them."""

    def __init__(self, link: Link, record: Record, root: Path, folder: Path) -> None:
        self._link, self._record, self._root, self._folder = link, record, root, folder

    def contents(self, devices: Sequence[str]) -> Contents:
        """The recordings of each file of the record. Archives that nothing is known of are fetched.

        Of these, if each of `devices` stands in the name of one, only such; without devices, all.
        """
        path = self._folder / "contents.json"
        noted = _read(path)
        files = [file for file in self._record.files if is_archive(file.name) or _alone(file)]
        if not files:
            raise ServerError(
                f"{self._record.page} has neither zip or tar archives nor recordings in folders, but only: "
                f"{', '.join(file.name for file in self._record.files)}."
            )
        named = [[file for file in files if device in file.name] for device in devices]
        if named and all(named):
            files = [file for file in files if any(file in some for some in named)]
        contents: Contents = {}
        seen: set[Path] = set()  # the first file that has a recording gives it
        for file in files:
            alone = _alone(file)
            if not alone and _key(file) not in noted:
                parts = recordings_in(self._bring(file), file.name)
                noted[_key(file)] = [(part.member, part.size, part.checksum) for part in parts]
                write_whole(path, json.dumps(noted, indent=1))
            found = [alone] if alone else [recording(*entry, file.name) for entry in noted[_key(file)]]
            contents[file] = []
            for part in filter(None, found):
                if part.path(self._root) not in seen:
                    seen.add(part.path(self._root))
                    contents[file].append(part)
        if not seen:
            raise ServerError(
                f"no archive of {self._record.page} has a file "
                ".../{train,val,test}/DEVICE-{input,target}.wav in it."
            )
        return contents

    def write(self, remote: Remote, wanted: Sequence[Recording]) -> None:
        """Recordings of one file, each whole or not at all, where they belong under `root`."""
        source = self._bring(remote)
        if is_archive(remote.name):
            unpack(source, remote.name, wanted, self._root)
            return
        with replacing(wanted[0].path(self._root)) as aside:
            shutil.copyfile(source, aside)

    def tidy(self, contents: Contents) -> None:
        """Remove files that nothing more is wanted from; of the others, say what they are kept for."""
        for remote, parts in contents.items():
            path = self._path(remote)
            others = sorted({part.device for part in parts if not part.path(self._root).exists()})
            if not others:
                path.unlink(missing_ok=True)
            elif path.exists():
                print(
                    f"{path} ({amount(remote.size)}) stays for other devices: {', '.join(others)}. "
                    "Remove it if you want none of them."
                )

    def _bring(self, remote: Remote) -> Path:
        """The file as it was kept, or fetched now."""
        path = self._path(remote)
        if path.exists() and difference(path, remote.size, remote.checksum):
            path.unlink()
        if not path.exists():
            needed, free = remote.size - fetched(path), shutil.disk_usage(self._folder).free
            if needed > free:
                raise DownloadError(
                    f"{amount(needed)} of {remote.name} are to come, {amount(free)} are free on the disk of "
                    f"{self._root}. Make room there, or choose a folder on another disk with --root."
                )
            fetch(self._link, remote, path)
        return path

    def _path(self, remote: Remote) -> Path:
        """Where a file is kept: no name leads out of the folder, or to anything else in it."""
        safe = "".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in remote.name)
        return self._folder / f"kept-{safe[-100:]}"


def _alone(remote: Remote) -> Recording | None:
    """The recording that a file of the record is by itself."""
    return None if is_archive(remote.name) else recording(remote.name, remote.size, remote.checksum)


def _key(remote: Remote) -> str:
    return f"{remote.name} {remote.size} {remote.checksum}"


def _read(path: Path) -> dict[str, list[tuple[str, int, str]]]:
    """What is noted of each archive: member, bytes, checksum; nothing where that cannot be read."""
    try:
        return {
            str(key): [(str(member), int(size), str(checksum)) for member, size, checksum in parts]
            for key, parts in json.loads(path.read_bytes()).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
