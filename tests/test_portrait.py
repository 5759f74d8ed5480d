"""A model's portrait: its figures show what the model does, measured anew here, and its words say that."""

import math

import numpy as np
import pytest
import torch
from test_klann import noise, randomised
from test_reading import CONTEXT, RATE, compressor, swelling, takes_of

from klann_lightning.dynamics import StepResponse, TimeConstant, level_curve, onsets
from klann_lightning.models.base import PLAYED_AT_ONCE
from klann_lightning.models.klann import ParallelKlann
from klann_lightning.portrait import described, of_inside, of_model, of_output, played, spoken
from klann_lightning.reading import read_klann


def small_klann():
    return randomised(ParallelKlann([3], 2, sample_rate=RATE, high_hz=3000.0))


@torch.no_grad()
def without_a_level(model):
    """A compressor's gain stands still."""
    model.down.gated[0].weight[4, 1] = 0
    return model


def bursts(count):
    """Noise that is louder for half a second of every 0.6 s."""
    size = round(0.6 * RATE)
    x = noise(count * size).numpy()
    return x * np.where(np.arange(x.size) % size < size // 6, 0.01, 1)


def named(drawn, name, place=0):
    return [trace for trace in drawn.figure.data if trace.name == name][place]


@pytest.fixture(scope="module")
def source():
    return swelling(6.0).numpy()


@pytest.fixture(scope="module")
def portrait(source):
    return of_model(compressor(), source)


# Of recordings


def test_an_output_is_drawn_beside_its_target():
    source = bursts(5)
    target, output = np.tanh(3 * source), 0.5 * source
    drawn = of_output(source, target, output, RATE)
    assert list(drawn) == ["levels", "onsets"]
    for name, y in (("Target", target), ("Output", output)):
        curve = level_curve(source, y, RATE)
        np.testing.assert_allclose(named(drawn["levels"], f"{name}, 50 ms").x, curve.input_db, rtol=1e-6)
        np.testing.assert_allclose(named(drawn["levels"], f"{name}, median").y, curve.medians_db, rtol=1e-6)
        seen = onsets(source, {name: y}, RATE).gains_db[name]
        np.testing.assert_allclose(named(drawn["onsets"], name).y, seen, atol=1e-5)
    assert drawn["onsets"].note.startswith("Mean of 5 places")


def test_recordings_without_onsets_have_no_figure_of_them():
    source = noise(2 * RATE).numpy()
    assert list(of_output(source, source, source, RATE)) == ["levels"]


# Of a model


@pytest.mark.parametrize("length", [1, 1000, PLAYED_AT_ONCE + 7])
def test_a_model_is_played_from_its_initial_state_in_blocks(length):
    model, x = small_klann(), noise(length)
    with torch.no_grad():
        whole = model(x[None])[0].double().numpy()
    output = played(model, x.numpy())
    assert output.dtype == np.float64
    np.testing.assert_allclose(output, whole, rtol=0, atol=1e-6)


def test_harmonics_are_those_of_sines_as_loud_as_the_recording(portrait, source):
    drawn, _ = portrait
    level_db = 10 * math.log10(np.mean(source**2))
    titles = [note.text for note in drawn["harmonics"].figure.layout.annotations]
    assert titles == [f"997 Hz at {level_db - lower_db:.0f} dB" for lower_db in (0, 12, 24)]
    settle, time = RATE // 2, np.arange(RATE + RATE // 2) / RATE
    for row, lower_db in enumerate((0, 12, 24)):
        sine = math.sqrt(2) * 10 ** ((level_db - lower_db) / 20) * np.sin(2 * np.pi * 997 * time)
        heard = played(compressor(), sine.astype(np.float32))[settle:]
        peak = 2 * abs(np.mean(heard * np.exp(-2j * np.pi * 997 * time[:RATE])))
        stems = named(drawn["harmonics"], "harmonics", row)
        assert stems.x[1] == pytest.approx(0.997)
        assert stems.y[1] == pytest.approx(20 * math.log10(peak), abs=0.2)


def test_steps_show_how_slowly_a_model_follows_the_level(portrait, source):
    """compressor() follows the level in 0.9 s."""
    drawn, (response,) = portrait
    assert list(drawn) == ["harmonics", "steps"]
    lowest_db, highest_db = np.percentile(level_curve(source, source, RATE).input_db, (10, 99))
    assert response.low_db == pytest.approx(lowest_db)
    assert lowest_db < response.high_db <= highest_db
    assert response.depth_db == pytest.approx(1, rel=0.1)
    for parts in (response.attack, response.release):
        assert max(parts, key=lambda part: abs(part.share_db)).seconds == pytest.approx(0.9, rel=0.15)
    shown = drawn["steps"].figure.data
    np.testing.assert_allclose(shown[0].y, response.up_db - response.down_db[-1], atol=1e-6)
    np.testing.assert_allclose(shown[1].y, response.down_db - response.down_db[-1], atol=1e-6)
    assert drawn["steps"].note == described(response)


def test_a_model_without_a_falling_gain_has_no_steps(source):
    drawn, responses = of_model(without_a_level(compressor()), source)
    assert list(drawn) == ["harmonics"]
    assert responses == []


@torch.no_grad()
def test_a_model_that_is_silent_or_diverged_has_a_portrait(source):
    for weight in (0.0, math.nan):
        model = small_klann()
        model.down.last.weight.fill_(weight)
        model.down.last.bias.zero_()
        drawn, responses = of_model(model, source.astype(np.float32))
        assert list(drawn) == ["harmonics"]
        assert responses == []
        drawn["harmonics"].figure.to_json()


def test_a_silent_recording_gives_no_sines():
    assert of_model(small_klann(), np.zeros(RATE, np.float32)) == ({}, [])


# Of what is inside


def test_what_is_inside_is_drawn_as_it_was_read():
    model = compressor()
    reading = read_klann(model, takes_of(model, 3.0), CONTEXT)
    drawn = of_inside(reading)
    assert list(drawn) == ["curves", "filters", "poles", "costs"]
    curves = drawn["curves"].figure
    assert [note.text for note in curves.layout.annotations] == model.channel_names()
    for channel, trace in zip(reading.channels, curves.data, strict=True):
        np.testing.assert_allclose(trace.x, channel.curve.x, atol=1e-6)
        np.testing.assert_allclose(trace.y, channel.curve.u, atol=1e-6)
        magnitude, phase = (named(drawn["filters"], channel.name, place) for place in (0, 1))
        np.testing.assert_allclose(magnitude.x, reading.frequencies_hz, rtol=1e-6)
        np.testing.assert_allclose(magnitude.y, channel.magnitude_db, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(phase.y, channel.phase_deg, rtol=1e-5, atol=1e-5)
        for place, part in enumerate(("poles", "zeros")):
            values = [value for biquad in channel.biquads for value in getattr(biquad, part)]
            shown = named(drawn["poles"], channel.name, place)
            np.testing.assert_array_equal(np.array(shown.x) + 1j * np.array(shown.y), values)
    (bars,) = drawn["costs"].figure.data
    assert list(bars.x) == model.channel_names()
    np.testing.assert_allclose(bars.y, [channel.cost_db for channel in reading.channels])


# In words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ([], "not to be told"),
        ([0.00234], "2.34 ms"),
        ([0.01, 1.5], "10 ms and 1.5 s"),
        ([0.9994], "999 ms"),
        ([1.0], "1 s"),
    ],
)
def test_time_constants_in_words(seconds, words):
    assert spoken([TimeConstant(value, 1.0) for value in seconds]) == words


def test_a_step_in_words():
    up, down = np.array([-2.0, -7.24]), np.array([-6.0, -2.0])
    attack, release = [TimeConstant(0.0123, 3)], [TimeConstant(0.06, -2), TimeConstant(1.5, -1)]
    assert described(StepResponse(-40, -20, np.ones(2), up, down, attack, release)) == (
        "Into 5.2 dB of gain reduction: attack 12.3 ms, release 60 ms and 1.5 s."
    )


def test_no_words_are_tags(portrait, source):
    for _, note, figure in [*portrait[0].values(), *of_output(source, source, source, RATE).values()]:
        assert "<" not in note + "".join(map(str, figure.layout.annotations))
