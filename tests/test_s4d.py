"""S4D: its recurrence sample by sample, discretised by scipy; long memories, and poles that stay stable."""

import numpy as np
import pytest
import torch
from conftest import error_db
from scipy.signal import cont2discrete
from test_baselines import noise, random_parts, seeded
from torch.nn import functional

from klann_lightning.errors import ConfigError
from klann_lightning.models import s4d
from klann_lightning.models.s4d import PIECE, DiagonalSsm, S4d


def evaluated(ssm: DiagonalSsm, x: np.ndarray) -> np.ndarray:
    """x [H, T] through s' = A s + x, y = 2 Re(C s) + D x, each mode a real system of two states."""
    dt, decay = np.exp(ssm.log_dt.detach().numpy()), np.exp(ssm.log_decay.detach().numpy())
    turn, read, direct = (part.detach().numpy() for part in (ssm.turn, ssm.read, ssm.direct))
    y = direct[:, None] * x
    for h, n in np.ndindex(ssm.channels, ssm.modes):
        a = np.array([[-decay[h, n], -turn[h, n]], [turn[h, n], -decay[h, n]]])
        c = 2 * np.array([[read[h, n, 0], -read[h, n, 1]]])
        a, b, *_ = cont2discrete((a, np.eye(2, 1), c, np.zeros((1, 1))), dt[h], method="zoh")
        state = np.zeros(2)
        for t in range(x.shape[-1]):
            state = a @ state + b[:, 0] * x[h, t]
            y[h, t] += c[0] @ state
    return y


def test_the_network_is_its_equation():
    model, x = seeded(lambda: S4d(layers=2, channels=3, modes=2)), noise(1, 400)
    flow = torch.einsum("h,t->th", model.lift.weight[:, 0], x[0] / 0.25) + model.lift.bias
    for ssm, gate in zip(model.ssms, model.gates, strict=True):
        heard = torch.from_numpy(evaluated(ssm, flow.detach().numpy().T.copy())).T
        bent = heard * 0.5 * (1 + torch.erf(heard / 2**0.5))
        first, second = functional.linear(bent, gate.weight, gate.bias).chunk(2, -1)
        flow = flow + first * torch.sigmoid(second)
    expected = 0.5 * (flow @ model.down.weight[0] + model.down.bias)
    assert error_db(model(x)[0], expected) < -220


def run(ssm: DiagonalSsm, x: torch.Tensor) -> torch.Tensor:
    """From the zero state, x [1, H, T], in the precision of x."""
    kind = torch.complex128 if x.dtype == torch.float64 else torch.complex64
    return ssm(x, torch.zeros(1, ssm.channels, ssm.modes, dtype=kind), ssm.recurrence())[0]


@pytest.mark.parametrize(("dt", "below_db"), [(1e-6, -110), (1e-3, -110), (0.5, -110)])
def test_slow_and_fast_modes_are_right_in_single_precision(dt, below_db):
    """The slowest forgets in 45 seconds."""
    torch.manual_seed(0)
    ssm, x = DiagonalSsm(2, 4, dt, dt), noise(1, 2, 3000)
    expected = torch.from_numpy(evaluated(ssm.double(), x[0].numpy()))
    assert error_db(run(ssm.float(), x.float())[0], expected) < below_db


def test_pieces_are_joined_without_a_seam(monkeypatch):
    model, x = seeded(lambda: S4d(layers=2, channels=3, modes=2)), noise(1, 900)
    whole = model(x)
    monkeypatch.setattr(s4d, "PIECE", 250)
    assert error_db(model(x), whole) < -240


def test_streaming_goes_on_across_pieces():
    model, x = seeded(lambda: S4d(layers=1, channels=2, modes=2, least_dt=1e-5)), noise(1, 2 * PIECE + 999)
    played = torch.cat(list(model.play(random_parts(x, 1, 6000))), -1)
    assert error_db(played, model(x)) < -240


def test_it_starts_as_s4d_lin_does():
    torch.manual_seed(0)
    ssm = DiagonalSsm(500, 3, 1e-4, 1e-2)
    recurrence = ssm.recurrence()
    poles = recurrence.log_pole / ssm.log_dt.double().exp()[:, None]
    expected = torch.tensor([-0.5, -0.5 + 1j * torch.pi, -0.5 + 2j * torch.pi], dtype=torch.complex128)
    torch.testing.assert_close(poles, expected.expand(500, 3), rtol=1e-6, atol=0)
    log_dt = np.sort(ssm.log_dt.detach().numpy())
    assert log_dt[0] >= np.log(1e-4)
    assert log_dt[-1] <= np.log(1e-2)
    np.testing.assert_allclose(log_dt, np.linspace(np.log(1e-4), np.log(1e-2), 500), atol=0.25)


@pytest.mark.parametrize("log_dt", [-60.0, -10.0, 5.0, 20.0])
@pytest.mark.parametrize("log_decay", [-20.0, 0.0, 60.0])
@pytest.mark.parametrize("turn", [0.0, 3.0, 1e4])
def test_no_parameter_makes_a_mode_grow(log_dt, log_decay, turn):
    """An impulse's response never exceeds its beginning, and every gradient is finite."""
    ssm = DiagonalSsm(1, 1, 1e-3, 1e-3)
    with torch.no_grad():
        for parameter, value in ((ssm.log_dt, log_dt), (ssm.log_decay, log_decay), (ssm.turn, turn)):
            parameter.fill_(value)
    assert (ssm.recurrence().log_pole.real <= 0).all()
    impulse = torch.zeros(1, 1, 2000)
    impulse[..., 0] = 1
    y = run(ssm, impulse)
    y.sum().backward()
    with torch.no_grad():
        _, drive, read = ssm.recurrence()
        rest = y - ssm.direct * impulse
        assert rest.abs().max() <= 2 * (read * drive).abs() * (1 + 1e-4) + 1e-6
    assert all(parameter.grad.isfinite().all() for parameter in ssm.parameters())


def test_multiply_adds_by_hand():
    """pole s + drive x: 4 + 2, read s: 2, direct x: 1; gates' matrices and products; lift and down."""
    cost = 4 * (16 * (4 * (4 + 2 + 2) + 1) + 16 * 32 + 16) + 16 + 16
    assert S4d(layers=4, channels=16, modes=4).multiply_adds() == cost


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"layers": 0}, "layers 0, .* must be at least 1"),
        ({"modes": 0}, "modes 0 must be at least 1"),
        ({"least_dt": 0.0}, r"0 < least_dt 0\.0 <= most_dt"),
        ({"least_dt": 0.2}, r"least_dt 0\.2 <= most_dt 0\.1"),
    ],
)
def test_impossible_sizes_are_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        S4d(**wrong)
