"""The runtime for browsers that is shipped: built from the sources of now, and from nothing else."""

import hashlib
import subprocess
from pathlib import Path

import pytest
from test_runtime import RUNTIME, needs

ROOT = RUNTIME.parents[1]
SHIPPED = RUNTIME / "klann.wasm"


def test_the_shipped_file_was_built_from_these_sources():
    sources = b"".join((RUNTIME / name).read_bytes() for name in ("klann.hpp", "klann_wasm.cpp"))
    assert hashlib.sha256(sources).hexdigest().encode() in SHIPPED.read_bytes(), (
        "klann.wasm is of other sources than klann.hpp and klann_wasm.cpp: run `make wasm`"
    )


def test_it_holds_no_place_of_the_machine_that_built_it():
    content = SHIPPED.read_bytes()
    places = (b"/home/", b"/root/", b"/usr/", b"/tmp/", bytes(RUNTIME))
    assert not [place for place in places if place in content]


def test_building_it_again_gives_the_same_bytes(tmp_path: Path):
    needs("clang++", "wasm-ld", "make")
    version = subprocess.run(["clang++", "--version"], capture_output=True, text=True, check=True).stdout
    if "version 14." not in version:
        pytest.skip("only clang 14 makes the file that is shipped")
    again = tmp_path / "klann.wasm"
    done = subprocess.run(["make", "wasm", f"WASM_FILE={again}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert again.read_bytes() == SHIPPED.read_bytes(), "run `make wasm`"
