"""What all baselines share: their published sizes, that they stop and go on anywhere, that they learn."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import error_db
from scipy.signal import lfilter
from torch import Tensor

from klann_lightning.evaluate import WIENER_TAPS, Fir, best_taps
from klann_lightning.models.base import AudioModel
from klann_lightning.models.gcn import Gcn
from klann_lightning.models.lstm import Lstm
from klann_lightning.models.s4d import S4d
from klann_lightning.resolving import resolve
from klann_lightning.sizing import model_size

SWEEPS = Path(__file__).parents[1] / "sweeps"
# As published (Comunita et al. 2022); S4D's by hand: 16 * 2, four layers of
# 16 * (1 + 4 + 4 + 8 + 1) and 32 * 17, and 17.
PARAMETERS = {
    "gcn_1": 17121,
    "gcn_3": 31969,
    "gcntf_1": 38881,
    "gcntf_3": 71137,
    "gcntf_250": 74273,
    "gcntf_2500": 48161,
    "lstm_32": 4513,
    "lstm_96": 38113,
    "s4d": 32 + 4 * (16 * 18 + 32 * 17) + 17,
}
SMALL = [
    pytest.param(lambda: Gcn(2, 3, channels=4, kernel=3, growth=3), id="gcn"),
    pytest.param(lambda: Gcn(2, 3, channels=4, kernel=3, growth=3, film_block=128), id="gcntf"),
    pytest.param(lambda: Lstm(6), id="lstm"),
    pytest.param(lambda: S4d(layers=2, channels=3, modes=2), id="s4d"),
]
small = pytest.mark.parametrize("make", SMALL)
causal = pytest.mark.parametrize("make", [SMALL[0], *SMALL[2:]])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(make, seed: int = 0) -> AudioModel:
    """In double precision, with levels."""
    torch.manual_seed(seed)
    model = make().double()
    model.set_levels(0.25, 0.5)
    return model


def random_parts(x: Tensor, block: int, largest: int, seed: int = 0) -> tuple[Tensor, ...]:
    """x cut at random multiples of the block; the last part is what is left."""
    generator, sizes = np.random.default_rng(seed), []
    while sum(sizes) < x.shape[-1]:
        sizes.append(block * int(generator.integers(1, largest)))
    sizes[-1] -= sum(sizes) - x.shape[-1]
    return x.split(sizes, -1)


@pytest.mark.parametrize("system", PARAMETERS)
def test_a_shipped_system_has_its_published_size(system):
    configs = SWEEPS / "la2a.yaml", SWEEPS / "systems" / f"{system}.yaml"
    size = model_size(resolve([f"--config={config}" for config in configs]))
    assert size.parameters == PARAMETERS[system]


@small
def test_stopping_anywhere_changes_nothing(make):
    model, x = seeded(make), noise(2, 2500)
    state, outputs = model.init_state(2), []
    for part in random_parts(x, model.block, 5 if model.block > 1 else 400):
        output, state = model.step(part, state)
        outputs.append(output)
    assert error_db(torch.cat(outputs, -1), model(x)) < -240


@causal
def test_a_sample_at_a_time_is_the_same(make):
    model, x = seeded(make), noise(1, 200)
    assert error_db(torch.cat(list(model.play(x.split(1, -1))), -1), model(x)) < -240


@small
def test_single_precision_streams_as_it_plays_offline(make):
    model, x = seeded(make).float(), noise(2, 3000).float()
    played = torch.cat(list(model.play(random_parts(x, 1, 300))), -1)
    assert error_db(played, model(x)) < -110


@small
def test_fresh_rows_start_anew_and_others_go_on(make):
    """From a second recording, as readers do; the first row's begins after 1024 samples."""
    model, x = seeded(make), noise(2, 2048)
    first, state = model.advance(x[:, :1024], [True, True], None)
    second, _ = model.advance(x[:, 1024:], [True, False], state)
    assert error_db(first, model(x[:, :1024])) < -240
    assert error_db(second[0], model(x[:1, 1024:])[0]) < -240
    assert error_db(second[1], model(x)[1, 1024:]) < -240


@small
def test_an_empty_block_leaves_everything_as_it_is(make):
    """A rank without a recording is fed one."""
    model, x = seeded(make), noise(1, 256)
    _, before = model.advance(x, [True], None)
    output, after = model.advance(x[:, :0], [False], before)
    assert output.shape == (1, 0)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert model.advance(x[:, :0], [True], None)[0].shape == (1, 0)


def heard_from(model: AudioModel, x: Tensor, place: int) -> list[int]:
    """Outputs that change with the input at one place."""
    other = x.clone()
    other[0, place] += 1
    return (model(other) - model(x))[0].abs().gt(1e-12).nonzero().flatten().tolist()


@small
def test_nothing_is_heard_earlier_than_the_look_ahead_says(make):
    model, x = seeded(make), noise(1, 600)
    for place in (0, 300, 384, 599):
        changed = heard_from(model, x, place)
        assert changed[0] >= place // model.block * model.block
        assert changed[0] >= place - model.look_ahead


def test_gcntf_looks_ahead_to_the_end_of_its_block():
    """A loud last sample is the block's maximum: it rescales the block from its first sample on."""
    model, x = seeded(SMALL[1].values[0]), noise(1, 600)
    assert model.look_ahead == 127
    x[0, 511] = 30.0
    assert heard_from(model, x, 511)[0] == 384


@causal
def test_the_others_do_not_look_ahead(make):
    model, x = seeded(make), noise(1, 600)
    assert model.look_ahead == 0
    assert heard_from(model, x, 511)[0] == 511


@small
@pytest.mark.parametrize("block", [1, 64, 100, 1000])
def test_blocks_of_any_size_are_played_alike(make, block):
    model, x = seeded(make), noise(2, 1111)
    played = list(model.play(x.split(block, -1)))
    parts = [part.shape[-1] for part in played]
    assert error_db(torch.cat(played, -1), model(x)) < -240
    assert all(part % model.block == 0 for part in parts[:-1])
    if model.block == 1:
        assert parts == [part.shape[-1] for part in x.split(block, -1)]


def test_of_nothing_nothing_is_played():
    for make in SMALL:
        assert list(make.values[0]().play([])) == []


@small
def test_levels_scale_what_goes_in_and_comes_out(make):
    model, x = seeded(make), noise(1, 500)
    expected = model(x)
    model.set_levels(0.5, 0.125)
    assert error_db(model(2 * x), expected / 4) < -240


@small
def test_a_restart_is_a_new_model(make):
    torch.manual_seed(1)
    new = make()
    old = make()
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.fill_(7.0)
    torch.manual_seed(1)
    old.restart()
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))


@small
def test_copies_play_the_same(make):
    model, x = seeded(make), noise(1, 500)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), model(x))


@small
def test_every_trained_parameter_has_a_finite_gradient_and_no_other_has_one(make):
    model = seeded(make).float()
    model(noise(2, 700).float()).square().mean().backward()
    for name, parameter in model.named_parameters():
        if name in model.untrained:
            assert parameter.grad is None
        else:
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


@small
@pytest.mark.parametrize("level", [0.0, 1e-30, 1e3])
def test_gradients_survive_silence_and_noise_far_too_loud(make, level):
    model = seeded(make).float()
    model(level * noise(1, 700).float()).square().mean().backward()
    gradients = [part.grad for part in model.parameters() if part.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@small
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_plays_the_same(make):
    model, x = seeded(make), noise(2, 1000)
    expected = model(x)
    heard = torch.cat(list(model.cuda().play(x.cuda().split(300, -1))), -1)
    assert error_db(heard.cpu(), expected) < -200


def overdrive(seed: int) -> tuple[Tensor, Tensor]:
    """A second of coloured noise through a biased clipper of 18 dB and a low-pass: input, target [T]."""
    source = np.random.default_rng(seed).uniform(-0.5, 0.5, 44100)
    x = np.convolve(source, np.ones(8) / 4, "same")
    y = lfilter([0.5], [1, -0.5], np.tanh(8 * x - 1))
    return torch.from_numpy(x).float(), torch.from_numpy(y).float()


def learn(model: AudioModel, x: Tensor, target: Tensor, steps: int = 300) -> None:
    """Four readers go round, 512 samples a step, the state carried; Adam, one cycle."""
    model.set_levels(float(x.square().mean().sqrt()), float(target.square().mean().sqrt()))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps)
    rows = [part.unfold(0, 512, 512)[:84].unflatten(0, (4, 21)) for part in (x, target)]  # [4, 21, 512]
    state = None
    for step in range(steps):
        place = step % 21
        y, state = model.advance(rows[0][:, place], [place == 0] * 4, state)
        state = tuple(part.detach() for part in state)
        optimizer.zero_grad()
        ((y - rows[1][:, place]).square().mean() / target.square().mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Gcn(1, 4, channels=8), id="gcn"),
        pytest.param(lambda: Gcn(1, 4, channels=8, film_block=128), id="gcntf"),
        pytest.param(lambda: Lstm(8), id="lstm"),
        pytest.param(lambda: S4d(layers=2, channels=8, modes=2), id="s4d"),
    ],
)
def test_an_overdrive_is_learnt_and_streams_as_it_plays_offline(make):
    """12 dB better on other noise than the best linear filter, which is fitted to that very noise."""
    torch.manual_seed(0)
    model = make()
    learn(model, *overdrive(0))
    x, target = overdrive(1)
    batch = {"input": x[None], "target": target[None], "fresh": [True], "skip": 0}
    linear = error_db(Fir(best_taps([batch], WIENER_TAPS))(x[None])[0], target)
    heard = model(x[None])[0]
    assert error_db(heard, target) < linear - 12
    played = torch.cat(list(model.play(x[None].split(64, -1))), -1)[0]
    assert error_db(played, heard) < -100
