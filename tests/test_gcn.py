"""GCN and GCNTF: their equations written out, what they cost, and what they cannot be."""

import pytest
import torch
from conftest import error_db
from test_baselines import noise, seeded
from test_lstm import cell
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from klann_lightning.errors import ConfigError
from klann_lightning.models.gcn import Gcn, TemporalFilm


def film(layer: TemporalFilm, z: Tensor) -> Tensor:
    """Block after block: each channel's maximum, a step of the LSTM, its output times the block."""
    channels = z.shape[1]
    h, c = z.new_zeros(2, len(z), channels)
    blocks = []
    for block in z.split(layer.block, -1):
        h, c = cell(layer.lstm, block.amax(-1), h, c)
        blocks.append(block * h[..., None])
    return torch.cat(blocks, -1)


def evaluated(model: Gcn, x: Tensor, growth: int, layers: int) -> Tensor:
    """The network as the paper writes it, over a whole recording: pad z, not the convolution's input."""
    flow, skips = x[:, None], []
    for index, layer in enumerate(model.layers):
        kernel, dilation = layer.convolution.kernel_size[0], growth ** (index % layers)
        weight, bias = layer.convolution.weight, layer.convolution.bias
        samples = x.shape[-1] - (kernel - 1) * dilation
        taps = [flow[..., tap * dilation :][..., :samples] for tap in range(kernel)]
        u = sum(torch.einsum("oi,bit->bot", weight[..., tap], part) for tap, part in enumerate(taps))
        left, right = torch.split(u + bias[:, None], weight.shape[0] // 2, 1)
        z = functional.pad(torch.tanh(left) / (1 + torch.exp(-right)), ((kernel - 1) * dilation, 0))
        if layer.film is not None:
            z = film(layer.film, z)
        skips.append(z)
        flow = torch.einsum("oi,bit->bot", layer.mix.weight[..., 0], z) + layer.mix.bias[:, None] + flow
    return torch.einsum("i,bit->bt", model.out.weight[0, :, 0], torch.cat(skips, 1)) + model.out.bias


@pytest.mark.parametrize("film_block", [None, 16, 128])
@pytest.mark.parametrize(("blocks", "layers", "kernel", "growth"), [(1, 3, 5, 3), (2, 3, 3, 2), (1, 1, 1, 1)])
def test_the_network_is_its_equation(film_block, blocks, layers, kernel, growth):
    """600 samples: the last block of TFiLM is not whole."""
    model = seeded(lambda: Gcn(blocks, layers, 4, kernel, growth, film_block))
    x = noise(2, 600)
    assert error_db(model(x), 0.5 * evaluated(model, x / 0.25, growth, layers)) < -240


def test_a_recording_shorter_than_the_reach_is_its_equation():
    """Of a layer that reaches beyond the beginning throughout, z is zero."""
    model, x = seeded(lambda: Gcn(1, 4, 4, kernel=3, growth=4)), noise(1, 50)  # the last one reaches 128
    begun = seeded(lambda: Gcn(1, 3, 4, kernel=3, growth=4))
    begun.load_state_dict({**model.state_dict(), "out.weight": model.out.weight[:, :12]}, strict=False)
    assert error_db(model(x), begun(x)) < -240


def test_the_dilations_start_anew_in_each_block():
    reaches = [layer.reach for layer in Gcn(2, 3, channels=2, kernel=3, growth=4).layers]
    assert reaches == [2, 8, 32, 2, 8, 32]


# GCN-1: kernels of the first layer's one channel and the others' sixteen, mixes but the last, output, gates.
GCN_1 = 32 * 3 + 9 * 32 * 16 * 3 + 9 * 256 + 160 + 10 * 16
# TFiLM a layer: scales of every sample; in 128 the LSTM's gates, and its products of gates and state.
FILM = 16 + (4 * 16 * 32 + 3 * 16) / 128


@pytest.mark.parametrize(("film_block", "cost"), [(None, GCN_1), (128, round(GCN_1 + 10 * FILM))])
def test_multiply_adds_by_hand(film_block, cost):
    assert Gcn(1, 10, film_block=film_block).multiply_adds() == cost


@pytest.mark.parametrize(
    ("blocks", "layers", "kernel", "growth"), [(1, 10, 3, 2), (2, 9, 3, 2), (1, 4, 41, 6)]
)
def test_multiply_adds_agree_with_torchs_counter(blocks, layers, kernel, growth):
    """Which counts the convolutions alone, not the gates."""
    model, samples = Gcn(blocks, layers, 16, kernel, growth), 7
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, samples))
    gates = 16 * blocks * layers
    assert model.multiply_adds() == counter.get_total_flops() / 2 / samples + gates


@pytest.mark.parametrize(
    "wrong",
    [{"blocks": 0}, {"layers": 0}, {"channels": 0}, {"kernel": 0}, {"growth": 0}, {"film_block": 0}],
)
def test_sizes_of_nothing_are_refused(wrong):
    with pytest.raises(ConfigError, match=f"{next(iter(wrong))} 0.* must be at least 1"):
        Gcn(**{"blocks": 1, "layers": 2, **wrong})
