"""The paper's recordings, from the public record where its authors have laid them.

Nothing is known of the record but its number: its own list says which files it has, and its archives which
devices.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from klann_lightning.download.fetch import amount, difference
from klann_lightning.download.link import Link, Patience, ServerError, say
from klann_lightning.download.record import page_of, read_record
from klann_lightning.download.shelf import Contents, Shelf
from klann_lightning.errors import DownloadError
from klann_lightning.files import write_whole

ZENODO = "https://zenodo.org/api/records/7271558"
PATIENCE = Patience()


def download(devices: Sequence[str], root: Path, api: str = ZENODO, patience: Patience = PATIENCE) -> None:
    """Write the recordings of `devices`, or of all there are, into `<root>/{train,val,test}`.

    As for a fit, a device's name may be the beginning of several takes'. What is there already stays, and
    nothing is fetched for it. Archives lie in `<root>/.download` while other devices may be wanted from them.
    Raises DownloadError; what has come so far stays then, and the same call goes on from there.
    """
    api, folder = api.rstrip("/"), root / ".download"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(folder), Link(patience) as link:
            record = read_record(link, api)
            write_whole(root / f"zenodo-{api.rpartition('/')[2]}.CITATION.txt", record.citation)
            print(record.citation, end="", flush=True)
            _deliver(Shelf(link, record, root, folder), devices, root, record.page)
    except KeyboardInterrupt:
        say(f"what has come is kept in {folder}: the same command goes on from there")
        raise
    except ServerError as error:
        raise DownloadError(
            f"{error} To do without: open {page_of(api)} in a browser, and lay the recordings into "
            f"{root}/train, val and test as DEVICE-input.wav and DEVICE-target.wav."
        ) from error
    except OSError as error:
        raise DownloadError(
            f"cannot write {error.filename or root}: {error.strerror or error}. Mend that, and the same "
            "command goes on with what has come; or choose another folder with --root."
        ) from error


def _deliver(shelf: Shelf, devices: Sequence[str], root: Path, page: str) -> None:
    """Write what is wanted and not there, and say what was done."""
    contents = shelf.contents(devices)
    known = sorted({part.device for parts in contents.values() for part in parts})
    if strange := [name for name in devices if not any(device.startswith(name) for device in known)]:
        raise DownloadError(f"{page} has no recordings of {', '.join(strange)}. It has: {', '.join(known)}.")
    chosen = [device for device in known if not devices or device.startswith(tuple(devices))]
    missing = _missing(contents, chosen, root)
    for remote, parts in missing.items():
        shelf.write(remote, parts)
    for device in chosen:
        there = [part for parts in contents.values() for part in parts if part.device == device]
        new = [part.size for parts in missing.values() for part in parts if part.device == device]
        said = [f"{len(new)} files written, {amount(sum(new))}"] if new else []
        said += [f"{len(there) - len(new)} files were there"] if len(there) > len(new) else []
        print(f"{root}/{{train,val,test}}/{device}-{{input,target}}.wav: {'; '.join(said)}")
    shelf.tidy(contents)


def _missing(contents: Contents, devices: Sequence[str], root: Path) -> Contents:
    """What is not there yet. DownloadError if something else is in its place."""
    missing: Contents = {}
    others: list[str] = []
    for remote, parts in contents.items():
        for part in (part for part in parts if part.device in devices):
            path = part.path(root)
            if not path.exists():
                missing.setdefault(remote, []).append(part)
            elif wrong := difference(path, part.size, part.checksum):
                others.append(f"{path} ({wrong})")
    if others:
        raise DownloadError(
            f"there already, but not as in the record: {'; '.join(others)}. Nothing was written: remove "
            "these, or choose another folder with --root."
        )
    return missing


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """A second process waits, and finds what the first has brought."""
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"another download into {folder.parent} is under way; waiting for its end")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
