"""Archives that are damaged, or not to be trusted."""

import io
import os
import stat
import struct
import tarfile
import zipfile

import pytest
from record_server import BOTH, LA2A, RecordServer, recordings, refused, tarred, wav, zipped

pytestmark = pytest.mark.usefixtures("no_proxy")


def as_link(name: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as file:
        info = zipfile.ZipInfo(name)
        info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        file.writestr(info, "/etc/passwd")
    return made.getvalue()


def forged(archive: bytes, size: int) -> bytes:
    """A zip whose list gives the first recording another size than it has."""
    at = archive.index(b"PK\x01\x02")
    return archive[: at + 24] + struct.pack("<L", size) + archive[at + 28 :]


def patched(archive: bytes, flag: int | None = None, method: int | None = None) -> bytes:
    at = archive.index(b"PK\x01\x02")
    changed = bytearray(archive)
    for start, first in ((0, 6), (at, 8)):
        if flag is not None:
            changed[start + first] |= flag
        if method is not None:
            changed[start + first + 2] = method
    return bytes(changed)


def damaged(archive: bytes, where: float = 0.5) -> bytes:
    at = int(len(archive) * where)
    return archive[:at] + bytes(99) + archive[at + 99 :]


INPUT = {"train/la2a-input.wav": wav()}
LINK = "is a link or a device, not a file"
NONE = r"file could not be opened successfully\. Delete"
EARLY = "Compressed file ended before the end-of-stream marker was reached"
DAMAGED = "Bad CRC-32 for file 'train/la2a-input.wav'|Error -3 while decompressing"
HOSTILE = {
    "zip slip": ("d.zip", zipped(LA2A | {"../../evil.wav": b"x"}), r"'\.\./\.\./evil\.wav' leads out of it"),
    "slip of a recording": ("d.zip", zipped({"../train/la2a-input.wav": b"x"}), "leads out of it"),
    "slip of a Windows": ("d.zip", zipped({"..\\train\\la2a-input.wav": b"x"}), "leads out of it"),
    "zip absolute": ("d.zip", zipped(LA2A | {"/train/x-input.wav": b"x"}), "'/train/x-input.wav' leads out"),
    "drive": ("d.zip", zipped(LA2A | {"C:\\train\\x-input.wav": b"x"}), "leads out of it"),
    "drive alone": ("d.zip", zipped(LA2A | {"c:x-input.wav": b"x"}), "leads out of it"),
    "zip link": ("d.zip", as_link("train/la2a-input.wav"), f"'train/la2a-input.wav' {LINK}"),
    "tar slip": ("d.tar", tarred(LA2A | {"a/../../evil.wav": b"x"}), "leads out of it"),
    "tar absolute": ("d.tar", tarred(LA2A | {"/tmp/train/x-input.wav": b"x"}), "leads out of it"),
    "tar symlink": ("d.tar", tarred({"train": b""}, type=tarfile.SYMTYPE, linkname="/tmp"), LINK),
    "tar hard link": ("d.tar", tarred({"train/x-input.wav": b""}, type=tarfile.LNKTYPE, linkname="a"), LINK),
    "tar device": ("d.tar", tarred({"train/x-input.wav": b""}, type=tarfile.CHRTYPE), LINK),
    "tar pipe": ("d.tgz", tarred({"train/x-input.wav": b""}, "w:gz", type=tarfile.FIFOTYPE), LINK),
    "zip bomb": (
        "d.zip",
        zipped({"train/x-input.wav": bytes(70 << 20)}),
        r"its 7\d\.\d kB would become 73\.4 MB",
    ),
    "tar bomb": (
        "d.tar.gz",
        tarred({"a.bin": bytes(70 << 20)}, "w:gz"),
        r"its 7\d\.\d kB would become 73\.4 MB",
    ),
    "bomb by the list": (
        "d.zip",
        forged(zipped(INPUT), 2**32 - 2),
        r"its \d+\.\d kB would become 4\.3 GB or more",
    ),
    "list too short": ("d.zip", forged(zipped(INPUT), 100), "cannot be unpacked: Bad CRC-32 for file"),
    "list too long": ("d.zip", forged(zipped(INPUT), 90_000), "is not what the archive's list says"),
    "password": ("d.zip", patched(zipped(INPUT), flag=1), "train/la2a-input.wav needs a password"),
    "unknown method": ("d.zip", patched(zipped(INPUT), method=9), "cannot be unpacked: .*compression"),
    "no zip": ("d.zip", b"PK" + bytes(500), "cannot be unpacked: File is not a zip file"),
    "half a zip": ("d.zip", zipped(LA2A)[:-5000], "cannot be unpacked: File is not a zip file"),
    "no tar": (
        "d.tar",
        bytes(range(256)) * 9,
        f"cannot be unpacked: {NONE}",
    ),
    "half a tar": ("d.tar", tarred(LA2A)[:100_000], "cannot be unpacked: unexpected end of data"),
    "half a tar.gz": ("d.tar.gz", tarred(LA2A, "w:gz")[:100_000], f"cannot be unpacked: {EARLY}"),
    "half a tar.bz2": ("d.tar.bz2", tarred(LA2A, "w:bz2")[:200_000], f"cannot be unpacked: {NONE}"),
    "half a tar.xz": ("d.tar.xz", tarred(LA2A, "w:xz")[:100_000], f"cannot be unpacked: {EARLY}"),
    "damaged tar.bz2": (
        "d.tbz",
        damaged(tarred(BOTH, "w:bz2"), 0.98),
        "cannot be unpacked: Invalid data stream",
    ),
    "damaged tar.xz": ("d.txz", damaged(tarred(LA2A, "w:xz")), "cannot be unpacked: Corrupt input data"),
    "damaged zip": ("d.zip", damaged(zipped(INPUT)), f"cannot be unpacked: {DAMAGED}"),
    "damaged tar.gz": ("d.tgz", tarred(LA2A, "w:gz")[:9] + bytes(range(99)), f"cannot be unpacked: {NONE}"),
    "two in one place": (
        "d.zip",
        zipped({"a/train/la2a-input.wav": wav(), "b/train/la2a-input.wav": wav()}),
        "a/train/la2a-input.wav and b/train/la2a-input.wav differ, and belong in one place",
    ),
}


@pytest.mark.parametrize(("name", "archive", "words"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_and_damaged_archives(tmp_path, name, archive, words):
    root = tmp_path / "a" / "b" / "root"
    with RecordServer({name: archive}) as server:
        message = refused(server, root, words)
    assert message.startswith(f"{root}/.download/kept-{name} ")
    assert "elete it" in message
    assert recordings(root) == {}
    assert sorted(os.listdir(root)) in (
        [".download", "train", "zenodo-7271558.CITATION.txt"],
        [".download", "zenodo-7271558.CITATION.txt"],
    )
    assert [os.listdir(folder) for folder in (root.parent, root.parent.parent)] == [["root"], ["b"]]


def test_recordings_are_written_whole_or_not_at_all(tmp_path):
    """The first is whole, of the second the list lies."""
    two = zipped({"train/a-input.wav": wav(), "train/b-input.wav": wav()})
    at = two.index(b"PK\x01\x02", two.index(b"PK\x01\x02") + 4)
    two = two[: at + 24] + struct.pack("<L", 100) + two[at + 28 :]
    with RecordServer({"d.zip": two}) as server:
        refused(server, tmp_path, "cannot be unpacked: Bad CRC-32 for file 'train/b-input.wav'")
    assert os.listdir(tmp_path / "train") == ["a-input.wav"]
