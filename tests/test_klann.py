"""The paper's systems and the stacked one: size, equations, and that they can stop and go on anywhere."""

import pytest
import torch
from conftest import error_db
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from klann_lightning.dsp.filtering import filter_scan, filter_streaming
from klann_lightning.dsp.svf import cutoff_hz
from klann_lightning.errors import ConfigError
from klann_lightning.models.klann import ParallelKlann, ParallelSeriesKlann
from klann_lightning.models.parts import Pointwise
from klann_lightning.models.stacked import StackedKlann

SMALL, LARGE = {"hidden": [3, 4, 5], "lift_dim": 5}, {"hidden": [5, 10, 15], "lift_dim": 15}
SYSTEMS = [
    pytest.param(lambda **more: ParallelKlann(**SMALL, **more), 291, id="small-parallel"),
    pytest.param(
        lambda **more: ParallelSeriesKlann(**SMALL, mid_width=5, **more), 435, id="small-parallel-series"
    ),
    pytest.param(lambda **more: ParallelKlann(**LARGE, **more), 1701, id="large-parallel"),
    pytest.param(
        lambda **more: ParallelSeriesKlann(**LARGE, mid_width=15, **more), 3185, id="large-parallel-series"
    ),
    pytest.param(lambda **more: StackedKlann([4], 5, banks=3, mid_width=4, **more), 475, id="stacked"),
]
systems = pytest.mark.parametrize(("system", "parameters"), SYSTEMS)


def noise(*shape, seed=0, dtype=torch.float32):
    return 0.3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def randomised(model, seed=0):
    """Off its symmetric start, with levels."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    model.set_levels(0.2, 0.05)
    return model


@systems
def test_has_its_size(system, parameters):
    assert sum(part.numel() for part in system().parameters()) == parameters


@systems
def test_a_restart_is_a_new_model(system, parameters):
    torch.manual_seed(1)
    new = system(sections=2)
    old = randomised(system(sections=2))
    torch.manual_seed(1)
    old.restart()
    assert all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))
    assert old.input_level == torch.tensor(0.2)  # the recordings are the same


# Lift, gates of both ways, filters (9 each), way down, maps between the filters, counted by hand.
COSTS = [
    (SYSTEMS[0], 95 + 2 * 12 + 5 * 9 + 117),
    (SYSTEMS[1], 95 + 2 * 12 + 5 * 9 + 117 + 4 * (20 + 5 + 5)),
    (SYSTEMS[2], 635 + 2 * 30 + 15 * 9 + 855),
    (SYSTEMS[3], 635 + 2 * 30 + 15 * 9 + 855 + 14 * (60 + 15 + 15)),
    (SYSTEMS[4], 28 + 2 * 4 + 15 * 9 + 124 + 2 * (80 + 4 + 20)),
]


@pytest.mark.parametrize(("system", "cost"), [(part.values[0], cost) for part, cost in COSTS])
def test_multiply_adds_by_hand(system, cost):
    assert system().multiply_adds() == cost


@systems
def test_multiply_adds_of_the_networks_agree_with_torchs_counter(system, parameters):
    model = system(sections=2)
    model.fused = False
    samples = 7
    with FlopCounterMode(display=False) as counter:
        lifted = model.lift(noise(1, 1, samples))
        model.down(model.linear(lifted, lambda u, filters: u))
    matrices = counter.get_total_flops() / 2 / samples
    gates = sum(part.out_features // 2 for part in model.modules() if isinstance(part, torch.nn.Linear))
    gates -= sum(part.last.out_features // 2 for part in model.modules() if isinstance(part, Pointwise))
    assert model.multiply_adds() == matrices + gates + 9 * 2 * model.bank.cutoff.shape[0]


@systems
@pytest.mark.parametrize("block", [1, 7, 64, 512])
def test_step_equals_forward(system, parameters, block):
    model = randomised(system(sections=2)).double()
    x = noise(2, 100 + 2 * block, dtype=torch.float64)
    state, outputs = model.init_state(2), []
    for part in x.split(block, -1):
        output, state = model.step(part, state)
        outputs.append(output)
    assert error_db(torch.cat(outputs, -1), model(x)) < -240


def test_step_equals_forward_in_float32():
    model, x = randomised(ParallelSeriesKlann(**SMALL, mid_width=5)), noise(2, 5000)
    state, outputs = model.init_state(2), []
    for part in x.split(64, -1):
        output, state = model.step(part, state)
        outputs.append(output)
    assert error_db(torch.cat(outputs, -1), model(x)) < -100


def glu(layers, x):
    """The pointwise network as it is written in the paper, on [..., channels]."""
    for layer in layers.gated:
        u = functional.linear(x, layer.weight, layer.bias)
        first, second = u.chunk(2, -1)
        x = first * torch.sigmoid(second)
    return functional.linear(x, layers.last.weight, layers.last.bias)


def filtered(model, index, u):
    """Channel `index` of the bank over u [B, T], sample by sample."""
    for controls in model.bank.section_controls():
        one = type(controls)(*(part[index : index + 1] for part in controls))
        u = filter_streaming(u[:, None], one, u.new_zeros(len(u), 1, 2))[0][:, 0]
    return u


@pytest.mark.parametrize("sections", [1, 2])
def test_parallel_is_the_papers_equation(sections):
    model = randomised(ParallelKlann(**SMALL, sections=sections, initial="zero")).double()
    x = noise(2, 300, dtype=torch.float64)
    u = glu(model.lift, x[..., None] / 0.2)
    z = torch.stack([filtered(model, i, u[..., i]) for i in range(5)], -1)
    assert error_db(model(x), glu(model.down, z)[..., 0] * 0.05) < -120  # levels are stored in float32


@pytest.mark.parametrize("sections", [1, 2])
def test_parallel_series_is_the_papers_equation(sections):
    model = randomised(ParallelSeriesKlann(**SMALL, mid_width=5, sections=sections, initial="zero")).double()
    x = noise(2, 300, dtype=torch.float64)
    u = glu(model.lift, x[..., None] / 0.2)
    z = [filtered(model, 0, u[..., 0])]
    for i in range(1, 5):
        z.append(filtered(model, i, glu(model.mids[i - 1], torch.stack([z[-1], u[..., i]], -1))[..., 0]))
    assert error_db(model(x), glu(model.down, torch.stack(z, -1))[..., 0] * 0.05) < -120


@systems
def test_sampled_path_is_the_same_model(system, parameters):
    """For filters that die away within the FFT."""
    model = system(start="paper", initial="zero").double()
    x = noise(2, 3000, dtype=torch.float64)
    assert error_db(model.forward_sampled(x), model(x)) < -200


@systems
def test_the_initial_state_has_settled_in_silence(system, parameters):
    """Silence goes on as if it had always been, also through the slowest filters; from zero it does not."""
    silence = torch.zeros(2, 500, dtype=torch.float64)
    output = randomised(system(sections=2, low_hz=1.0)).double()(silence)
    assert (output - output[:, :1]).abs().max() < 1e-9
    output = randomised(system(sections=2, low_hz=1.0, initial="zero")).double()(silence)
    assert (output - output[:, :1]).abs().max() > 1e-6


def test_fresh_rows_start_anew_and_others_go_on():
    model, x = randomised(ParallelKlann(**SMALL)).double(), noise(2, 2000, dtype=torch.float64)
    first, state = model.advance(x[:, :900], [True, True], None)
    second, _ = model.advance(x[:, 900:], [True, False], state)
    assert error_db(second[0], model(x[:1, 900:])[0]) < -240
    assert error_db(second[1], model(x)[1, 900:]) < -240
    assert error_db(first, model(x[:, :900])) < -240


@systems
def test_inside_is_a_step_with_what_happens_on_the_way(system, parameters):
    """The way down reads what leaves the filters, and these make it of what enters them."""
    model, x = randomised(system(sections=2)).double(), noise(2, 700, dtype=torch.float64)
    inside, state = model.inside(x, model.init_state(2))
    output, after = model.step(x, model.init_state(2))
    assert error_db(inside.output, output) < -240
    assert error_db(state[0], after[0]) < -240
    assert error_db(model.down(inside.leaving)[:, 0] * 0.05, output) < -120
    heard = inside.entering
    for index, section in enumerate(model.bank.unrolled()):
        heard, _ = filter_scan(heard, section, model.init_state(2)[0][:, :, index])
    assert error_db(heard, inside.leaving) < -240


def test_levels_travel_with_the_weights():
    model, other = randomised(ParallelKlann(**SMALL)), ParallelKlann(**SMALL)
    other.load_state_dict(model.state_dict())
    x = noise(1, 500)
    assert torch.equal(other(x), model(x))


def test_levels_scale_what_goes_in_and_comes_out():
    model = randomised(ParallelKlann(**SMALL)).double()
    x = noise(1, 500, dtype=torch.float64)
    expected = model(x)
    model.set_levels(0.4, 0.1)
    assert error_db(model(2 * x), 2 * expected) < -130


def test_log_start_is_a_logarithmic_grid():
    bank = ParallelKlann(**LARGE, low_hz=0.5, high_hz=16000).bank
    cutoffs = cutoff_hz(bank.controls(), 44100).flatten()
    assert cutoffs[0].item() == pytest.approx(0.5, rel=1e-4)
    assert cutoffs[-1].item() == pytest.approx(16000, rel=1e-4)
    steps = cutoffs.log().diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-3, atol=0)


def test_log_start_follows_the_sample_rate():
    bank = ParallelKlann(**SMALL, sample_rate=96000).bank
    assert cutoff_hz(bank.controls(), 96000)[0].item() == pytest.approx(0.5, rel=1e-4)


def test_paper_start_has_all_filters_alike():
    bank = ParallelKlann(**SMALL, start="paper").bank
    assert (bank.cutoff == 0).all()
    assert (bank.damping == 0).all()
    assert (bank.mix == 1).all()


def test_responses_are_those_of_the_filters():
    """Tones through a channel, measured against what the model says of it."""
    model = randomised(ParallelKlann(**SMALL, sections=2)).double()
    frequencies = torch.tensor([100.0, 1000.0, 10000.0], dtype=torch.float64)
    labels, magnitude_db = model.filter_responses(frequencies)
    assert len(labels) == 5
    time = torch.arange(44100, dtype=torch.float64) / 44100
    for column, hertz in enumerate(frequencies):
        tone = torch.sin(2 * torch.pi * hertz * time)[None]
        heard = tone[:, None]
        for section in model.bank.unrolled():
            heard, _ = filter_scan(heard, section.select(slice(3, 4)), tone.new_zeros(1, 1, 2))
        heard = heard[0, 0, 22050:]
        level = 20 * torch.log10(heard.std() / tone[0, 22050:].std())
        assert level.item() == pytest.approx(magnitude_db[3, column].item(), abs=0.01)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"lift_dim": 0}, "lift_dim 0 .* must be at least 1"),
        ({"hidden": [3, 0]}, r"hidden \[3, 0\]"),
        ({"sections": 0}, "sections 0"),
        ({"low_hz": 0.0}, "grid from 0.0 to"),
        ({"high_hz": 30000.0}, "Nyquist, 22050.0 Hz"),
    ],
)
def test_impossible_sizes_are_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        ParallelKlann(**{**SMALL, **wrong})


def test_mid_width_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="mid_width must be at least 1"):
        ParallelSeriesKlann(**SMALL, mid_width=0)
