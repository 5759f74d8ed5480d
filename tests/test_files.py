"""A file is the former one or the new one, never a part of one."""

import os

import pytest

from klann_lightning.files import remove_parts, replacing, write_whole


def test_a_file_takes_the_others_place(tmp_path):
    write_whole(tmp_path / "new" / "a.txt", "former\n")
    write_whole(tmp_path / "new" / "a.txt", "latter\r\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"latter\r\n"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.txt"]


def test_the_former_stays_where_writing_fails(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "former")

    def fail():
        with replacing(path) as aside:
            aside.write_text("lat")
            assert path.read_text() == "former"
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_it_is_on_the_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    """And the folder after it."""
    path, seen = tmp_path / "a.txt", []
    write_whole(path, "former")
    synced = os.fsync

    def fsync(number):
        seen.append((os.readlink(f"/proc/self/fd/{number}"), path.read_text()))
        synced(number)

    monkeypatch.setattr(os, "fsync", fsync)
    write_whole(path, "latter")
    assert seen == [(str(tmp_path / f".part-{os.getpid()}-a.txt"), "former"), (str(tmp_path), "latter")]


def test_halves_of_a_killed_process_can_be_removed(tmp_path):
    (tmp_path / ".part-123-last.ckpt").write_text("ha")
    (tmp_path / "last.ckpt").write_text("whole")
    remove_parts(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
