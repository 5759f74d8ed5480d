"""A KLANN that was built by hand is read back: what each channel does, how fast, and what it is good for."""

import math

import numpy as np
import pytest
import torch
from conftest import error_db
from scipy.signal import butter, freqz, lfilter, lfilter_zi
from test_klann import noise, randomised

from klann_lightning.dsp.svf import biquad_from_controls, raw_from_cutoff_hz
from klann_lightning.errors import ConfigError
from klann_lightning.inside import Parts, esr_db, moments
from klann_lightning.models.base import AudioModel
from klann_lightning.models.klann import ParallelKlann, ParallelSeriesKlann
from klann_lightning.models.stacked import StackedKlann
from klann_lightning.models.surgery import standing_still
from klann_lightning.reading import read_klann
from klann_lightning.wording import sentence, summary

RATE, CONTEXT = 8000, 1000
OPEN = 40.0  # a gate's bias: its sigmoid is 1


def overdamped_hz(seconds, damping=2.0):
    """The cutoff of a low-pass whose slow pole has this time constant: 1 / (2 pi f (R - sqrt(R^2 - 1)))."""
    return 1 / (2 * math.pi * seconds * (damping - math.sqrt(damping**2 - 1)))


@torch.no_grad()
def set_filter(model, channel, hz, damping, mix):
    bank = model.bank
    bank.cutoff[channel] = raw_from_cutoff_hz(torch.tensor(hz, dtype=torch.float64), RATE)
    bank.damping[channel] = math.log(math.expm1(damping))
    bank.mix[channel] = torch.tensor(mix, dtype=torch.float64)


@torch.no_grad()
def compressor(release=0.9, third=(0.0, 1.0)):
    """y = z_1 sigmoid(2 - 3 z_2), z_1 = x, z_2 the slow mean of x tanh(x / 2); channel 3 gives what it likes.

    The lift's gated units are x, x sigmoid(x), x sigmoid(4 x) and 1.
    """
    model = ParallelKlann([4], 3, sample_rate=RATE, high_hz=3000.0).double()
    for network in (model.lift, model.down):
        for layer in (network.gated[0], network.last):
            layer.weight.zero_()
            layer.bias.zero_()
    first = model.lift.gated[0]
    first.weight[:, 0] = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 4.0, 0.0])
    first.bias[3], first.bias[4], first.bias[7] = 1.0, OPEN, OPEN
    lifted = [[1.0, 0, 0, 0], [-0.5, 1.0, 0, 0], [third[0], 0, third[1], 0]]
    model.lift.last.weight.copy_(torch.tensor(lifted))
    last = model.down.gated[0]
    last.weight[0, 0], last.weight[4, 1], last.bias[4] = 1.0, -3.0, 2.0
    model.down.last.weight[0, 0] = 1.0
    set_filter(model, 0, 700.0, 0.8, [[1.0, 1.6, 1.0]])  # above and below alike: H = 1
    set_filter(model, 1, overdamped_hz(release), 2.0, [[1.0, 0.0, 0.0]])
    set_filter(model, 2, 80.0, 0.5**0.5, [[0.0, 0.0, 1.0]])
    model.set_levels(0.2, 0.1)
    return model


@torch.no_grad()
def listening_to_the_third(model):
    """The third channel is added to the output."""
    model.down.gated[0].weight[1, 2], model.down.gated[0].bias[5] = 1.0, OPEN
    model.down.last.weight[0, 1] = 0.5
    return model


def swelling(seconds=8.0, seed=0):
    """Noise whose loudness comes and goes, [T]."""
    x = noise(int(seconds * RATE), seed=seed, dtype=torch.float64)
    time = torch.arange(len(x), dtype=torch.float64) / RATE
    return x * (0.55 + 0.45 * torch.sin(2 * torch.pi * 0.4 * time))


def takes_of(model, seconds=8.0):
    """What the model is a little wrong about."""
    x = swelling(seconds)
    return [(x, AudioModel.play_whole(model, x) + 0.001 * noise(len(x), seed=5, dtype=torch.float64))]


def test_a_compressor_is_read_back():
    model = compressor()
    reading = read_klann(model, takes_of(model), CONTEXT)
    sound, level, idle = reading.channels
    assert sentence(sound) == "carries the sound, nearly straight"
    assert sentence(level) == "follows the level, time constant 900 ms"
    assert sentence(idle) == "idle: leaving it out costs 0.00 dB"
    assert [channel.idle for channel in reading.channels] == [False, False, True]
    assert (sound.curve.kind, level.curve.kind) == ("straight", "even")
    assert (sound.shape.kind, level.shape.kind, idle.shape.kind) == ("gain", "low-pass", "high-pass")
    assert idle.shape.low_hz == pytest.approx(80, rel=0.01)
    assert level.time_constant_ms == pytest.approx(900, rel=0.01)
    assert level.biquads[0].cutoff_hz == pytest.approx(overdamped_hz(0.9), rel=1e-3)
    assert level.biquads[0].damping == pytest.approx(2, rel=1e-5)
    assert level.slow.even > 0.99
    assert level.slow_share > 0.9
    assert sound.slow_share < 0.1
    assert summary(reading)[:4] == [
        f"2 of its 3 channels carry the output; leaving one out costs most with channel 1 "
        f"({sound.cost_db:.1f} dB), channel 2 ({level.cost_db:.1f} dB).",
        "Idle, at less than 0.1 dB each: channel 3.",
        "Of what channels mostly give, the slowest has a time constant of 900 ms, in channel 2.",
        "The level is followed by channel 2.",
    ]


def test_curves_are_the_lifts():
    model = compressor()
    (_, level, _) = read_klann(model, takes_of(model), CONTEXT).channels
    inside = level.curve.x / 0.2
    np.testing.assert_allclose(level.curve.u, inside * np.tanh(inside / 2) / 2, rtol=0, atol=1e-6)
    assert level.curve.even > 0.99
    assert level.curve.straight < 0.01
    assert level.curve.rises > 0.9


def test_responses_are_scipys():
    model = compressor()
    frequencies = np.array([0.5, 20.0, 333.0, 3999.0])
    reading = read_klann(model, takes_of(model), CONTEXT, frequencies)
    b, a = (part[:, 0].detach().numpy() for part in biquad_from_controls(model.bank.controls()))
    for channel, *polynomials in zip(reading.channels, b, a, strict=True):
        _, expected = freqz(*polynomials, frequencies, fs=RATE)
        np.testing.assert_allclose(channel.magnitude_db, 20 * np.log10(np.abs(expected)), atol=1e-3)
        turned = np.exp(1j * np.radians(channel.phase_deg)) * np.abs(expected)
        np.testing.assert_allclose(turned, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("third", "filter", "said"),
    [
        ((1.0, 0.0), (80.0, 0.5**0.5, [0.0, 0.0, 1.0]), "carries the sound, nearly straight, above 80 Hz"),
        ((1.0, 0.0), (1000.0, 0.5**0.5, [1.0, 0.0, 0.0]), "carries the sound, nearly straight, below 1 kHz"),
        ((-0.5, 1.0), (80.0, 0.5**0.5, [0.0, 0.0, 1.0]), "carries the rectified sound, above 80 Hz"),
        ((-0.5, 1.0), (80.0, 0.7, [1.0, 1.4, 1.0]), "carries the rectified sound; follows the level"),
        ((1.0, 0.0), (2.0, 0.7, [1.0, 0.0, 0.0]), ""),  # of the sound below 20 Hz nothing is said
        (
            (1.0, 0.0),
            (500.0, 0.02, [0.0, 1.0, 0.0]),
            "carries the sound, nearly straight, from 490 Hz to 510 Hz; rings at 500 Hz",
        ),
        ((0.0, 0.0), (80.0, 0.7, [0.0, 0.0, 1.0]), "holds a constant"),
    ],
)
def test_other_channels_in_words(third, filter, said):
    model = listening_to_the_third(compressor(third=third))
    set_filter(model, 2, *filter[:2], [filter[2]])
    assert sentence(read_klann(model, takes_of(model, 6.0), CONTEXT).channels[2]) == said


def test_sound_outside_the_limits_lies_on_the_slopes():
    model = listening_to_the_third(compressor(third=(1.0, 0.0)))
    set_filter(model, 2, 2000.0, 0.5**0.5, [[0.0, 0.0, 1.0]])
    x = torch.from_numpy(lfilter(*butter(2, 100, fs=RATE), 8 * swelling(6.0).numpy()))
    target = AudioModel.play_whole(model, x) + 1e-7 * noise(len(x), dtype=torch.float64)
    third = read_klann(model, [(x, target)], CONTEXT).channels[2]
    assert sentence(third) == "carries the sound, nearly straight, rising up to 2 kHz"
    assert third.within < 0.5


def test_clipped_sound_is_called_so():
    """(sigmoid(6 x) - 1/2), by a unit whose first half is a constant."""
    model = listening_to_the_third(compressor(third=(0.0, 1.0)))
    with torch.no_grad():
        first = model.lift.gated[0]
        first.weight[2, 0], first.bias[2], first.weight[6, 0] = 0.0, 1.0, 6.0
    third = read_klann(model, takes_of(model, 6.0), CONTEXT).channels[2]
    assert sentence(third) == "carries the clipped sound, above 80 Hz"
    assert (third.curve.kind, third.curve.odd) == ("odd", pytest.approx(1))
    assert third.curve.steepness < 0.2


def test_sound_that_one_sign_of_is_clipped_is_called_so():
    """1.5 (x - x sigmoid(x) + sigmoid(6 x)): some 1.5 x below zero, some 1.5 above."""
    model = listening_to_the_third(compressor())
    with torch.no_grad():
        model.lift.last.weight[2] = torch.tensor([1.5, -1.5, 1.5, 0.0])
        first = model.lift.gated[0]
        first.weight[2, 0], first.bias[2], first.weight[6, 0] = 0.0, 1.0, 6.0
    third = read_klann(model, takes_of(model, 6.0), CONTEXT).channels[2]
    assert third.curve.kind == "mixed"
    assert sentence(third) == "carries the sound, clipped unevenly, above 80 Hz"


def test_a_tone_shows_the_harmonics():
    """sigmoid(6 x) - 1/2 is odd; x tanh(2 x) / 2 is even; the compressor alone has none."""
    plain = read_klann(compressor(), takes_of(compressor(), 3.0), CONTEXT)
    assert max(plain.odd_harmonics_db, plain.even_harmonics_db) < -50
    model = listening_to_the_third(compressor(third=(-0.5, 1.0)))
    bent = read_klann(model, takes_of(model, 3.0), CONTEXT)
    assert bent.even_harmonics_db > -30
    assert bent.odd_harmonics_db < -50


SYSTEMS = [
    pytest.param(lambda **more: ParallelKlann([3, 4], 4, **more), id="parallel"),
    pytest.param(lambda **more: ParallelSeriesKlann([3, 4], 4, 3, **more), id="parallel-series"),
    pytest.param(lambda **more: StackedKlann([3, 4], 2, banks=2, mid_width=3, **more), id="stacked"),
    pytest.param(lambda **more: ParallelKlann([], 3, **more), id="without-hidden-layers"),
]
systems = pytest.mark.parametrize("system", SYSTEMS)


def some_model(system, sections=2, **more):
    torch.manual_seed(3)
    return randomised(system(sections=sections, sample_rate=RATE, high_hz=3000.0, **more)).double()


@systems
def test_a_contribution_is_what_freezing_its_output_costs(system):
    """By a run of the filters whose output of one channel is overwritten, from a settled state on."""
    model = some_model(system)
    x = noise(3000, dtype=torch.float64)
    target = AudioModel.play_whole(model, x) + 0.01 * noise(3000, seed=2, dtype=torch.float64)
    takes = [(x, target)]
    means, _ = moments(model, takes, CONTEXT)
    reading = read_klann(model, takes, CONTEXT)
    for index, channel in enumerate(reading.channels):
        expected = frozen(model, x, {index: float(means.leaving[index])})
        without = esr_db([expected], takes, CONTEXT)
        assert channel.cost_db == pytest.approx(without - reading.esr_db, abs=1e-6)


@torch.no_grad()
def frozen(model, x, values):
    """The output [T] where these channels' filters always give these values: the slow and plain way."""
    settled = []

    def over(channels, filters, heard):
        fixed = {index - filters.start: value for index, value in values.items()}
        for place in range(channels.shape[1]):
            if place in fixed:
                heard[:, place] = fixed[place]
        return heard

    def settle(channels, filters):
        settled.append(channels)
        gains = model.bank.mix[filters, :, 0].prod(1)
        return over(channels, filters, channels * gains[:, None])

    def run(channels, filters):
        at_rest = settled.pop(0) if model.initial == "silence" else torch.zeros_like(channels[..., :1])
        before = 20000  # in silence, or in nothing
        held = torch.cat([at_rest.expand(-1, -1, before), channels], -1)
        b, a = biquad_from_controls(model.bank.controls())
        for section in range(b.shape[1]):
            held = filtered(b[filters, section], a[filters, section], held)
        return over(channels, filters, held[..., before:].clone())

    if model.initial == "silence":
        model.linear(model.lift(x.new_zeros(1, 1, 1)), settle)
    return model._around(x[None], run)[0]


def filtered(b, a, x):
    """By scipy, settled in the first sample: [F, 3], [F, 3], [1, F, T]."""
    rows = []
    for above, below, row in zip(b.numpy(), a.numpy(), x[0].numpy(), strict=True):
        rows.append(lfilter(above, below, row, zi=lfilter_zi(above, below) * row[0])[0])
    return torch.from_numpy(np.stack(rows))[None]


@pytest.mark.parametrize("initial", ["silence", "zero"])
@systems
def test_standing_still_is_a_frozen_output(system, initial):
    model = some_model(system, initial=initial)
    x = noise(500, dtype=torch.float64)
    means, _ = moments(model, [(x, x)], 100)
    for index in range(len(model.bank.cutoff)):
        expected = frozen(model, x, {index: float(means.leaving[index])})
        assert error_db(AudioModel.play_whole(standing_still(model, [index], means), x), expected) < -150


@systems
def test_blocks_make_no_difference(system, monkeypatch):
    model = some_model(system)
    x = noise(5000, dtype=torch.float64)
    whole = moments(model, [(x, x)], CONTEXT)
    monkeypatch.setattr("klann_lightning.inside.BLOCK", 700)
    parts = moments(model, [(x, x)], CONTEXT)
    torch.testing.assert_close(parts[0], whole[0])
    torch.testing.assert_close(parts[1], whole[1])


def test_parts_of_a_series_tell_what_comes_from_before():
    """A map that hears only the channel before makes of it memory; one that hears none, functions."""
    torch.manual_seed(0)
    model = randomised(ParallelSeriesKlann([3], 3, 4, sample_rate=RATE, high_hz=3000.0)).double()
    with torch.no_grad():
        model.mids[0].gated[0].weight[:, 0] = 0  # deaf to channel 1
        model.mids[1].gated[0].weight[:, 1] = 0  # deaf to the sample
    x = swelling(6.0)
    first, second, third = read_klann(model, [(x, x)], CONTEXT).channels
    assert [channel.before for channel in (first, second, third)] == ["", "channel 1", "channel 2"]
    for channel in (first, second):
        assert max(channel.slow.memory, channel.sound.memory) < 1e-4
    assert min(third.slow.memory, third.sound.memory) > 1 - 1e-4
    assert third.curve.kind == "constant"
    assert sum(first.sound) == pytest.approx(1)
    assert isinstance(first.sound, Parts)


def test_takes_add_up():
    model = some_model(SYSTEMS[0].values[0])
    x = swelling(4.0)
    target = AudioModel.play_whole(model, x) * 0.9
    one = read_klann(model, [(x, target)], CONTEXT)
    two = read_klann(model, [(x, target), (x, target)], CONTEXT)
    assert two.esr_db == pytest.approx(one.esr_db)
    assert two.channels[0].mode_share == pytest.approx(one.channels[0].mode_share)
    assert two.channels[0].cost_db == pytest.approx(one.channels[0].cost_db)


def test_float32_reads_the_same():
    model = compressor()
    takes = takes_of(model, 6.0)
    wide = read_klann(model, takes, CONTEXT)
    narrow = read_klann(model.float(), [(x.float(), y.float()) for x, y in takes], CONTEXT)
    assert [sentence(channel) for channel in narrow.channels] == [sentence(one) for one in wide.channels]
    assert narrow.esr_db == pytest.approx(wide.esr_db, abs=1e-3)


def test_a_model_is_not_changed_by_being_read():
    model = compressor()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    read_klann(model, takes_of(model, 2.0), CONTEXT)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("takes", "words"),
    [
        ([], "no recording to read"),
        ([(torch.zeros(900), torch.zeros(900))], "above the context of 1000 samples"),
        ([(torch.zeros(2000), torch.zeros(1999))], r"\[2000\] and a target of \[1999\]"),
    ],
)
def test_takes_of_nothing_are_refused(takes, words):
    with pytest.raises(ConfigError, match=words):
        read_klann(compressor(), takes, CONTEXT)
