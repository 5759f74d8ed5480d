"""What a command sets before and after it imports torch, and what it leaves to the user."""

import os

import pytest
import torch

from klann_lightning.native import host


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    monkeypatch.setattr(host, "start", lambda: None)
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_waiting_threads_soon_give_way():
    host.before_torch()
    assert os.environ["GOMP_SPINCOUNT"] == host.SPINS


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


def test_does_without_glibc(monkeypatch):
    monkeypatch.setattr(host.ctypes, "CDLL", lambda _: object())
    host.after_torch()
