"""The folders of trainings: which one a training goes on in, and that two never share one."""

import errno
import fcntl
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from klann_lightning.errors import ConfigError
from klann_lightning.runs import changed, hold, new_folder, newest, unfinished

CONFIG = {"model": {"lr": 0.1}, "trainer": {"devices": 1, "default_root_dir": "x"}, "resume": False}


def run(runs, name, config=CONFIG, last=True, ended=False):
    folder = runs / "la2a" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for there, file in ((last, "last.ckpt"), (ended, "scores.json")):
        if there:
            (folder / file).touch()
    return folder


def test_the_newest_unfinished_run_of_this_configuration_is_resumed(tmp_path):
    assert unfinished(tmp_path, "la2a", CONFIG) is None
    wanted = run(tmp_path, "2026-01-02")
    run(tmp_path, "2026-01-01")
    run(tmp_path, "2026-01-03", ended=True)
    run(tmp_path, "2026-01-04", last=False)
    run(tmp_path, "2026-01-05", {**CONFIG, "model": {"lr": 0.2}})
    assert unfinished(tmp_path, "la2a", CONFIG) == wanted
    elsewhere = {**CONFIG, "trainer": {"devices": 4, "default_root_dir": None}, "resume": True}
    assert unfinished(tmp_path, "la2a", elsewhere) == wanted
    assert newest(tmp_path, "la2a").name == "2026-01-05"


def test_what_has_changed_is_named(tmp_path):
    folder = run(tmp_path, "2026-01-01", {**CONFIG, "model": {"lr": 0.2}, "resume": True})
    assert changed(folder, CONFIG) == ["model.lr"]
    (folder / "config.yaml").unlink()
    assert changed(folder, CONFIG) == ["config.yaml"]


def test_nothing_to_go_on_from_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"no run in .*la2a has a last\.ckpt"):
        newest(tmp_path, "la2a")


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    folder = run(tmp_path, "2026-01-01")
    script = f"""
from pathlib import Path
from klann_lightning.errors import ConfigError
from klann_lightning.runs import hold, unfinished
print(unfinished(Path({str(tmp_path)!r}), "la2a", {CONFIG!r}))
try:
    with hold(Path({str(folder)!r})):
        print("trains too")
except ConfigError as error:
    print(error)
"""
    with hold(folder):
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found, refused = done.stdout.splitlines()
    assert found == "None"
    assert refused.startswith(f"another process trains in {folder}")
    assert unfinished(tmp_path, "la2a", CONFIG) == folder


def test_holding_removes_what_a_killed_process_has_left(tmp_path):
    folder = run(tmp_path, "2026-01-01")
    (folder / ".part-123-last.ckpt").touch()
    with hold(folder):
        assert not list(folder.glob(".part*"))


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write into .*file/run: Not a directory\. Name another"):
        hold(tmp_path / "file" / "run").__enter__()


def test_a_folder_that_takes_nothing_is_let_go_of(tmp_path, monkeypatch):
    """So that the same process can try again, once there is space."""

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", fail)
        with pytest.raises(ConfigError, match="No space left on device") as kept:
            hold(tmp_path).__enter__()
    with hold(tmp_path):  # though the error, and all that it has seen, is still there
        assert kept.value
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_without_locks_a_run_is_trained_all_the_same(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    folder = run(tmp_path, "2026-01-01")
    with hold(folder):
        assert unfinished(tmp_path, "la2a", CONFIG) == folder


def test_runs_of_one_second_have_names_of_their_own(tmp_path):
    first = new_folder(tmp_path, "la2a")
    first.mkdir(parents=True)
    second = new_folder(tmp_path, "la2a")
    assert second != first
    assert second.parent == first.parent == tmp_path / "la2a"
