"""Shared by the tests: error in dB, filters to try, a tiny device, the real recordings if they are there."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from servers import Postgres, postgres_programs
from torch import Tensor

from klann_lightning.data.audio import write_audio
from klann_lightning.dsp.svf import SvfControls
from klann_lightning.native import build

RECORDINGS = Path(__file__).parents[2] / "shared" / "recordings"

torch.set_flush_denormal(True)
torch.set_num_threads(1)  # several processes of tests on few cores slow each other down with more


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills, once for all processes of a run of the tests; nothing may change in it."""
    root = factory.getbasetemp()
    folder = (root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root) / f"once-{name}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            folder.mkdir(exist_ok=True)
            make(folder)
            (folder / "made").touch()
    return folder


def _can_compile() -> bool:
    """Not whether it works: where there is a compiler, what it refuses must fail the tests."""
    try:
        return build.wanted() and bool(build.find_compiler())
    except OSError:
        return False


needs_compiler = pytest.mark.skipif(not _can_compile(), reason="needs a C++ compiler")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; where KLANN_TEST_POSTGRES is set, as in CI, its absence is an error."""
    programs = postgres_programs()
    if programs is None and not os.environ.get("KLANN_TEST_POSTGRES"):
        pytest.skip("no PostgreSQL server is installed (Debian package postgresql)")
    assert programs is not None, "KLANN_TEST_POSTGRES is set, but initdb and pg_ctl are nowhere"
    server = Postgres(programs)
    yield server
    server.remove()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A headless Chromium, one for all tests of a process: Playwright starts no second one beside it."""
    from browsers import chromium

    yield from chromium()


def error_db(result: Tensor, expected: Tensor) -> float:
    """Energy of the difference over energy of the expected, in dB; silence compared with itself is -inf."""
    result, expected = result.detach().double(), expected.detach().double()
    error = (result - expected).square().sum()
    return float(10 * torch.log10(error / expected.square().sum()))


def low_pass(cutoff_hz: list[float], sample_rate: float = 44100) -> SvfControls:
    """Butterworth low-passes, [F]."""
    g = torch.tan(torch.pi * torch.tensor(cutoff_hz, dtype=torch.float64) / sample_rate)
    mix = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).expand(len(g), 3)
    return SvfControls(g, torch.full_like(g, 0.5**0.5), mix)


@pytest.fixture
def controls() -> SvfControls:
    """Four filters that have nothing in common: slow, resonant, fast, overdamped; [4]."""
    return SvfControls(
        torch.tensor([0.001, 0.05, 2.0, 0.3], dtype=torch.float64),
        torch.tensor([0.7, 0.02, 0.5, 4.0], dtype=torch.float64),
        torch.tensor(
            [[1.0, 0.0, 0.0], [0.3, -1.2, 0.8], [1.0, 1.0, 1.0], [-0.5, 0.0, 2.0]], dtype=torch.float64
        ),
    )


@pytest.fixture
def recordings() -> Path:
    """The real recordings that lie beside the project where it is developed."""
    if not RECORDINGS.is_dir():
        pytest.skip("the real recordings are not beside the project")
    return RECORDINGS


@pytest.fixture
def tiny_root(tmp_path: Path) -> Path:
    """A device `tiny`, a soft clip: 1 s to train, 0.5 s each to validate and test."""
    return write_root(tmp_path / "data", lambda x: np.tanh(2 * x))


def write_root(
    root: Path, device: Callable[[np.ndarray], np.ndarray], rate: int = 44100, train_seconds: float = 1.0
) -> Path:
    for seed, (split, seconds) in enumerate({"train": train_seconds, "val": 0.5, "test": 0.5}.items()):
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, int(seconds * rate))
        source = np.convolve(noise, np.ones(8) / 4, "same").astype(np.float32)
        write_audio(root / split / "tiny-input.wav", source, rate)
        write_audio(root / split / "tiny-target.wav", device(source), rate)
    return root


@pytest.fixture
def no_proxy(monkeypatch):
    """A server on this machine is asked without a detour."""
    monkeypatch.setenv("NO_PROXY", "*")


@pytest.fixture
def server():
    """A record with one archive, as Zenodo would serve it."""
    from record_server import ARCHIVE, RecordServer

    with RecordServer({"data.zip": ARCHIVE}) as running:
        yield running
