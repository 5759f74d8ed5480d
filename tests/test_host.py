"""What a command sets before and after it imports torch, and what it leaves to the user."""

import os
from types import SimpleNamespace

import pytest
import torch

from klann_lightning.native import host


@pytest.fixture(autouse=True)
def started(monkeypatch):
    """Nothing is set; how often the compiler was started."""
    starts = []
    monkeypatch.setattr(host, "start", lambda: starts.append(1))
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return starts


def test_waiting_threads_soon_give_way(started):
    host.before_torch()
    assert os.environ["GOMP_SPINCOUNT"] == "1000"
    assert started == [1]


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "active"), ("GOMP_SPINCOUNT", "7")])
def test_the_users_own_choice_stays(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    host.before_torch()
    assert os.environ[name] == value
    assert os.environ.get("GOMP_SPINCOUNT") in (None, "7")


def test_denormals_count_as_zero():
    try:
        torch.set_flush_denormal(False)
        assert torch.tensor(1e-40) / 2 != 0
        host.after_torch()
        assert torch.tensor(1e-40) / 2 == 0
    finally:
        torch.set_flush_denormal(True)


def test_freed_memory_stays_with_the_process(monkeypatch):
    """Up to 32 MB a block, and never given back at the top: M_MMAP_THRESHOLD is -3, M_TRIM_THRESHOLD -1."""
    asked = []
    monkeypatch.setattr(
        host.ctypes, "CDLL", lambda _: SimpleNamespace(mallopt=lambda *words: asked.append(words))
    )
    host.after_torch()
    assert asked == [(-3, 2**25), (-1, 2**31 - 1)]


@pytest.mark.parametrize("missing", [OSError, TypeError, None])
def test_does_without_glibc(monkeypatch, missing):
    """Where there is no C library to load, or one without mallopt; all else is set as elsewhere."""

    def load(_):
        if missing:
            raise missing
        return object()

    monkeypatch.setattr(host.ctypes, "CDLL", load)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    host.after_torch()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_a_gpu_that_is_there_stays_in_sight(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    host.after_torch()
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
