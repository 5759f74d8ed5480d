"""The LSTM baseline: its equations sample by sample, its cost, and what it refuses."""

import pytest
import torch
from conftest import error_db
from test_baselines import noise, seeded
from torch import Tensor

from klann_lightning.errors import ConfigError
from klann_lightning.models.lstm import Lstm


def cell(lstm: torch.nn.LSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM as it is written: x [B, inputs], state [B, H] each."""
    gates = x @ lstm.weight_ih_l0.T + lstm.bias_ih_l0 + h @ lstm.weight_hh_l0.T + lstm.bias_hh_l0
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def test_the_network_is_its_equation():
    model, x = seeded(lambda: Lstm(5)), noise(2, 200)
    h, c = torch.zeros(2, 2, 5, dtype=torch.float64)
    outputs = []
    for sample in (x / 0.25).T[..., None]:
        h, c = cell(model.lstm, sample, h, c)
        outputs.append(0.5 * (h @ model.out.weight[0] + model.out.bias + sample[:, 0]))
    assert error_db(model(x), torch.stack(outputs, -1)) < -240


def test_multiply_adds_by_hand():
    """Four gates of an input and a state of 32, f c + i g and o tanh(c), the way out."""
    assert Lstm(32).multiply_adds() == 4 * 32 * (1 + 32) + 3 * 32 + 32


def test_a_state_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="hidden must be at least 1, not 0"):
        Lstm(0)
