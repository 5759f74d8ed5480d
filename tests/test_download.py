"""The paper's recordings, from a server here that answers as Zenodo does."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from record_server import (
    ARCHIVE,
    BLOCK,
    BOTH,
    LA2A,
    NUMBER,
    SIZE,
    RecordServer,
    get,
    kept,
    proper,
    recordings,
    refused,
    slow,
    wav,
)

from klann_lightning.download import shelf
from klann_lightning.download.fetch import amount

pytestmark = pytest.mark.usefixtures("no_proxy")


def program(server: RecordServer, root: Path) -> subprocess.Popen[str]:
    """The command, as a shell runs it. A shell's background jobs do not hear SIGINT; this one does."""
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from klann_lightning.cli import run; run()"
    )
    words = ["download", f"--root={root}", f"--api={server.api}"]
    command = [sys.executable, "-W", "error", "-c", script, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_all_there_is(server, tmp_path, capsys):
    get(server, tmp_path)
    assert recordings(tmp_path) == BOTH
    assert kept(tmp_path) == ["contents.json"]
    assert [path for path, _ in server.asked] == [f"/api/records/{NUMBER}", server.path("data.zip")]
    assert {headers["User-Agent"] for _, headers in server.asked} == {"klann_lightning/0.1.0"}
    page = server.api.replace("/api", "")
    citation = (
        "Fuzz and compressors\n"
        "Cite: Comunità, Marco; Reiss, Joshua D. (2022). Fuzz and compressors [Data set]. 127.0.0.1. "
        "https://doi.org/10.5281/zenodo.7271558\n"
        f"Licence: cc-by-4.0\nSource: {page}\n"
    )
    assert (tmp_path / "zenodo-7271558.CITATION.txt").read_text(encoding="utf-8") == citation
    out = capsys.readouterr().out
    assert out == citation + "".join(
        f"{tmp_path}/{{train,val,test}}/{device}-{{input,target}}.wav: 6 files written, 480.3 kB\n"
        for device in ("fuzz-A1", "la2a")
    )


def test_some_devices_and_then_others_from_the_archive_that_is_kept(server, tmp_path, capsys):
    get(server, tmp_path, "la2a")
    assert recordings(tmp_path) == LA2A
    assert kept(tmp_path) == ["contents.json", "kept-data.zip"]
    assert f"kept-data.zip ({SIZE}) stays for other devices: fuzz-A1. Remove it if" in capsys.readouterr().out
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*.wav")}
    get(server, tmp_path)
    assert recordings(tmp_path) == BOTH
    assert kept(tmp_path) == ["contents.json"]
    assert server.ranges("data.zip") == [""]
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert "la2a-{input,target}.wav: 6 files were there\n" in capsys.readouterr().out


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    get(server, tmp_path)
    (tmp_path / "val" / "la2a-target.wav").unlink()
    get(server, tmp_path, "fuzz-A1")
    assert server.ranges("data.zip") == [""]
    get(server, tmp_path, "la2a")
    assert server.ranges("data.zip") == ["", ""]
    assert recordings(tmp_path) == BOTH


@pytest.mark.parametrize("noted", ["", "[1]", '{"a": 1}', '{"a": [[1]]}'])
def test_notes_that_cannot_be_read_are_made_again(server, tmp_path, noted):
    get(server, tmp_path)
    (tmp_path / ".download" / "contents.json").write_text(noted)
    get(server, tmp_path)
    assert server.ranges("data.zip") == ["", ""]
    assert list(json.loads((tmp_path / ".download" / "contents.json").read_text()))[-1].startswith(
        "data.zip "
    )


def test_a_kept_archive_that_was_changed_is_fetched_again(server, tmp_path):
    get(server, tmp_path, "la2a")
    path = tmp_path / ".download" / "kept-data.zip"
    path.write_bytes(b"PK" + path.read_bytes()[2:-1] + b"x")
    get(server, tmp_path)
    assert server.ranges("data.zip") == ["", ""]
    assert recordings(tmp_path) == BOTH


def test_unknown_devices(server, tmp_path):
    words = r"records/7271558 has no recordings of la2b, ts9\. It has: fuzz-A1, la2a\."
    refused(server, tmp_path, words, "la2b", "la2a", "ts9")
    assert recordings(tmp_path) == {}
    refused(server, tmp_path, words, "la2b", "ts9")
    assert server.ranges("data.zip") == [""]


def test_nothing_is_overwritten(server, tmp_path):
    same, other = tmp_path / "train" / "la2a-input.wav", tmp_path / "val" / "fuzz-A1-target.wav"
    for path, data in ((same, LA2A["train/la2a-input.wav"]), (other, b"mine")):
        path.parent.mkdir()
        path.write_bytes(data)
    message = refused(server, tmp_path, "there already, but not as in the record: ")
    assert message.count(".wav") == 1
    assert f"{other} (it has 4 bytes, not 80044). Nothing was written: remove these, or choose" in message
    assert recordings(tmp_path) == {
        "train/la2a-input.wav": LA2A["train/la2a-input.wav"],
        "val/fuzz-A1-target.wav": b"mine",
    }
    other.write_bytes(wav())
    refused(server, tmp_path, r"fuzz-A1-target\.wav \(its crc32 checksum is [0-9a-f]{8}, not [0-9a-f]{8}\)")
    other.unlink()
    get(server, tmp_path)
    assert recordings(tmp_path) == BOTH
    assert server.ranges("data.zip") == [""]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_process_that_was_ended_leaves_its_part_to_the_next(server, tmp_path, number):
    server.plan[server.path("data.zip")] = [slow(0.2)]
    part = tmp_path / ".download" / "kept-data.zip.part"
    with program(server, tmp_path) as running:
        wait_for(lambda: part.exists() and part.stat().st_size > 3 * BLOCK)
        running.send_signal(number)
        _, err = running.communicate()
    interrupted = number == signal.SIGINT
    assert running.returncode == (130 if interrupted else -number)
    if interrupted:
        words = f"what has come is kept in {part.parent}: the same command goes on from there\ninterrupted\n"
        assert err.endswith(words)
    size = part.stat().st_size
    assert 0 < size < len(ARCHIVE)
    assert part.read_bytes() == ARCHIVE[:size]
    with program(server, tmp_path) as running:
        _, err = running.communicate()
    assert running.returncode == 0, err
    assert server.ranges("data.zip") == ["", f"bytes={size}-"]
    assert recordings(tmp_path) == BOTH


def test_two_processes_at_once(server, tmp_path):
    gate = threading.Event()

    def act(handler, body):
        gate.wait(20)
        proper(handler, body)

    server.plan[server.path("data.zip")] = [act]
    with program(server, tmp_path) as first:
        wait_for(lambda: server.ranges("data.zip"))
        with program(server, tmp_path) as second:
            assert second.stderr is not None
            line = second.stderr.readline()
            assert line == f"another download into {tmp_path} is under way; waiting for its end\n"
            gate.set()
            for running in (first, second):
                _, err = running.communicate()
                assert running.returncode == 0, err
    assert server.ranges("data.zip") == [""]
    assert recordings(tmp_path) == BOTH


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk(server, tmp_path):
    (tmp_path / ".download").mkdir()
    (tmp_path / ".download" / "kept-data.zip.part").symlink_to("/dev/full")
    words = (
        rf"^cannot write {tmp_path}: No space left on device\. Mend that, and the same command goes on with "
        r"what has come; or choose another folder with --root\.$"
    )
    refused(server, tmp_path, words)


def test_a_disk_without_room(server, tmp_path, monkeypatch):
    free = len(ARCHIVE) - 1
    monkeypatch.setattr(shelf.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    words = (
        rf"^{SIZE} of data\.zip are to come, {SIZE} are free on the disk of {tmp_path}\. Make room there, or "
    )
    refused(server, tmp_path, words)
    assert server.ranges("data.zip") == []
    free += 1
    get(server, tmp_path)
    assert recordings(tmp_path) == BOTH


def test_the_part_that_is_there_needs_no_room(server, tmp_path, monkeypatch):
    (tmp_path / ".download").mkdir()
    (tmp_path / ".download" / "kept-data.zip.part").write_bytes(ARCHIVE[:BLOCK])
    monkeypatch.setattr(shelf.shutil, "disk_usage", lambda _: SimpleNamespace(free=len(ARCHIVE) - BLOCK - 1))
    refused(server, tmp_path, f"^{amount(len(ARCHIVE) - BLOCK)} of data.zip are to come", "la2a")
    monkeypatch.setattr(shelf.shutil, "disk_usage", lambda _: SimpleNamespace(free=len(ARCHIVE) - BLOCK))
    get(server, tmp_path, "la2a")
    assert server.ranges("data.zip") == [f"bytes={BLOCK}-"]


def test_a_folder_that_may_not_be_written(server, tmp_path, monkeypatch):
    def mkdir(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    refused(server, tmp_path, rf"^cannot write {tmp_path}/\.download: Permission denied\. Mend that, and ")


def test_a_root_that_is_a_file(server, tmp_path):
    (tmp_path / "data").write_text("")
    refused(server, tmp_path / "data", rf"^cannot write {tmp_path}/data/\.download: Not a directory\. Mend ")
