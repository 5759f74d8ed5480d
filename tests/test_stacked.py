"""The stacked system beside the paper's four: its equation, and the banks' starts."""

import pytest
import torch
from conftest import error_db
from test_klann import filtered, glu, noise, randomised

from klann_lightning.dsp.svf import cutoff_hz
from klann_lightning.errors import ConfigError
from klann_lightning.models.klann import ParallelKlann
from klann_lightning.models.stacked import StackedKlann


def test_the_network_is_its_equation():
    """z_k = bank_k(u_k), u_(k+1) = m_k(z_k, u_k), and the way down reads every z_k: sample by sample."""
    model = randomised(StackedKlann([4, 3], 2, banks=3, mid_width=5, sections=2, initial="zero")).double()
    x = noise(2, 300, dtype=torch.float64)
    u = glu(model.lift, x[..., None] / 0.2)
    banks = []
    for bank in range(3):
        channels = [filtered(model, 2 * bank + i, u[..., i]) for i in range(2)]
        banks.append(torch.stack(channels, -1))
        if bank < 2:
            u = glu(model.maps[bank], torch.cat([banks[-1], u], -1))
    assert error_db(model(x), glu(model.down, torch.cat(banks, -1))[..., 0] * 0.05) < -120


def test_every_bank_starts_from_the_whole_grid():
    cutoffs = cutoff_hz(StackedKlann([4], 3, banks=2, mid_width=4).bank.controls(), 44100)
    torch.testing.assert_close(cutoffs[:3], cutoffs[3:])
    assert cutoffs[0].item() == pytest.approx(0.5, rel=1e-4)
    assert cutoffs[2].item() == pytest.approx(16000, rel=1e-4)


def test_responses_name_the_bank():
    labels, magnitude_db = StackedKlann([4], 2, banks=2, mid_width=4).filter_responses(torch.tensor([100.0]))
    assert magnitude_db.shape == (4, 1)
    assert labels == [
        "bank 1, channel 1: 0.5 Hz",
        "bank 1, channel 2: 16 kHz",
        "bank 2, channel 1: 0.5 Hz",
        "bank 2, channel 2: 16 kHz",
    ]


@pytest.mark.parametrize("wrong", [{"banks": 0}, {"mid_width": 0}])
def test_sizes_of_nothing_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"banks \d and mid_width \d must be at least 1"):
        StackedKlann([4], 2, **{"banks": 2, "mid_width": 4, **wrong})


def test_other_systems_have_one_bank():
    with pytest.raises(ConfigError, match="ParallelKlann has one bank, not 2: StackedKlann has several"):
        ParallelKlann([3], 2, banks=2)
