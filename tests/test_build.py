"""The compiled passes come from a cache, from a compiler, or not at all: then in one line."""

import errno
import logging
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import needs_compiler

from klann_lightning.native import build


def forget():
    """As a new process knows nothing of what the one before has built."""
    build.library.cache_clear()
    build._build.cache_clear()


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget()
    yield tmp_path / "klann_lightning"
    forget()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """One that is compiled in no time, in place of ours."""
    path = tmp_path / "source" / "small.cpp"
    path.parent.mkdir()
    path.write_text('extern "C" int answer() {\n#ifdef KLANN_TEST\nreturn 8;\n#else\nreturn 7;\n#endif\n}\n')
    monkeypatch.setattr(build, "FOLDER", path.parent)
    return path


@needs_compiler
def test_builds_once_and_then_reads_the_cache(empty_cache):
    first = build.library()
    assert first.klann_chunk() > 0
    (file,) = empty_cache.iterdir()
    written = file.stat().st_mtime_ns
    forget()
    assert build.library()._name == str(file)
    assert [path.stat().st_mtime_ns for path in empty_cache.iterdir()] == [written]


@needs_compiler
def test_another_source_or_flag_is_another_file(empty_cache, source, monkeypatch):
    assert build.library().answer() == 7
    monkeypatch.setattr(build, "FLAGS", [*build.FLAGS, "-DKLANN_TEST"])
    forget()
    assert build.library().answer() == 8
    source.write_text(source.read_text().replace("8", "9"))
    forget()
    assert build.library().answer() == 9
    assert len(list(empty_cache.iterdir())) == 3


@needs_compiler
def test_flags_that_the_compiler_refuses_are_left_out(empty_cache, source, monkeypatch):
    monkeypatch.setattr(build, "CHOICES", [["-march=no-such-processor"], ["-DKLANN_TEST"], []])
    assert build.library().answer() == 8


@needs_compiler
def test_processes_that_build_at_once_do_not_disturb_each_other(empty_cache, source, tmp_path, monkeypatch):
    """Each has built before the other is done: their compiler rests before it says so."""
    compiler = tmp_path / "slow"
    compiler.write_text(
        f'#!/bin/sh\n{shlex.join(build.find_compiler())} "$@"\ncode=$?\n'
        'case "$*" in *small.cpp*) sleep 0.5;; esac\nexit $code\n'
    )
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    script = (
        "from pathlib import Path; from klann_lightning.native import build; "
        f"build.FOLDER = Path({str(source.parent)!r}); assert build.library().answer() == 7"
    )
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(subprocess.run, [sys.executable, "-c", script], check=True) for _ in range(2)]
        for run in runs:
            run.result()
    assert len(list(empty_cache.iterdir())) == 1


@needs_compiler
@pytest.mark.parametrize("fault", [errno.EROFS, errno.ENOSPC, errno.EACCES])
def test_a_cache_that_cannot_be_written_is_done_without(empty_cache, source, monkeypatch, fault):
    """It is built in a folder that nobody else can write, which goes with the process."""

    def refuse(*_, **__):
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr(build.Path, "mkdir", refuse)
    going = []
    monkeypatch.setattr(build.atexit, "register", lambda *words, **_: going.append(words))
    library = build.library()
    assert library.answer() == 7
    folder = Path(library._name).parent
    assert folder.name.startswith("klann_lightning-")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert going == [(shutil.rmtree, folder)]
    shutil.rmtree(folder)
    assert not empty_cache.exists()


@needs_compiler
def test_a_filled_cache_need_not_be_writable(empty_cache, source, monkeypatch):
    build.library()
    forget()
    monkeypatch.setattr(build, "_writable", lambda _: pytest.fail("looked for a place to write"))
    assert build.library().answer() == 7
    assert [build.library()._name] == [str(path) for path in empty_cache.iterdir()]


@needs_compiler
def test_a_damaged_file_is_built_anew(empty_cache, source, caplog):
    empty_cache.mkdir()
    name = f"native-{build._fingerprint(build.find_compiler())}.so"
    (empty_cache / name).touch()
    assert build.library().answer() == 7
    assert [path.name for path in empty_cache.iterdir()] == [name]
    assert not caplog.records


@needs_compiler
def test_a_compiler_that_is_stopped_leaves_nothing_behind(empty_cache, monkeypatch, tmp_path, caplog):
    """Ctrl-C reaches the compiler too: neither its file nor one with fewer abilities may stay."""
    stopped = tmp_path / "stopped"
    stopped.write_text('#!/bin/sh\ncase "$*" in *planes.cpp*) kill -INT $$;; *-E*) ;; *) exit 0;; esac\n')
    stopped.chmod(0o755)
    monkeypatch.setenv("CXX", str(stopped))
    assert build.library() is None
    assert list(empty_cache.iterdir()) == []
    assert len(caplog.records) == 1


@needs_compiler
@pytest.mark.skipif("linux" not in sys.platform, reason="Apple's compiler has no OpenMP")
def test_is_built_with_threads(empty_cache):
    """Where a compiler can: g++, and clang++ with its runtime."""
    asked = [*build.find_compiler(), "--version"]
    if "clang" in subprocess.run(asked, capture_output=True, text=True).stdout:
        pytest.skip("clang++ may lack its OpenMP runtime")
    build.library()
    (file,) = empty_cache.iterdir()
    assert b"GOMP_parallel" in file.read_bytes()


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false", "g++ '"])
def test_without_a_compiler_one_line_is_logged(compiler, monkeypatch, caplog):
    monkeypatch.setenv("CXX", compiler)
    with caplog.at_level(logging.WARNING):
        assert build.library() is None
        assert build.library() is None
    (record,) = caplog.records
    assert "slower" in record.getMessage()
    assert "Install g++" in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (
            b"In file included from x\nx.cpp:1:2: error: no such thing\nnote: y",
            "x.cpp:1:2: error: no such thing",
        ),
        (
            "ld: final link failed: No space left\ncollect2: error: ld returned 1",
            "ld: final link failed: No space left",
        ),
        ("", "Command 'c++' returned non-zero exit status 1"),
    ],
)
def test_the_reason_is_the_line_that_tells_most(said, reason):
    assert build.reason(subprocess.CalledProcessError(1, "c++", stderr=said)) == reason


def test_can_be_left_out(empty_cache, monkeypatch, caplog):
    monkeypatch.setenv("KLANN_COMPILE", "0")
    build.start()
    assert build.library() is None
    assert not caplog.records
    assert not empty_cache.exists()


def test_a_run_without_a_compiler_says_so_once_and_goes_on():
    """As a user sees it: one line on standard error, and sound."""
    script = (
        "import torch; from klann_lightning.models.klann import ParallelKlann; "
        "model, x = ParallelKlann([3], 2), torch.zeros(1, 100); model(x); print(model(x).shape[1])"
    )
    environment = {**os.environ, "CXX": "no-such-compiler"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "100\n"
    assert len(done.stderr.splitlines()) == 1
    assert "no-such-compiler" in done.stderr


def test_the_sources_travel_with_the_package():
    """A wheel holds what package-data names."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    named = tomllib.loads((build.FOLDER.parents[1] / "pyproject.toml").read_text())
    patterns = named["tool"]["setuptools"]["package-data"]["klann_lightning"]
    package = build.FOLDER.parent
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    files = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert packed == {path for path in files if path.suffix != ".py"}
