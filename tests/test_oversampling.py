"""Oversampling: what passes, what no longer folds, and that it plays block by block like all else."""

import copy

import numpy as np
import pytest
import torch
from test_export import off_db, system
from torch import nn

from klann_lightning.aliasing import aliasing
from klann_lightning.cli import main
from klann_lightning.data.audio import read_audio, write_audio
from klann_lightning.errors import ConfigError
from klann_lightning.export.document import document, write_document
from klann_lightning.models.base import AudioModel
from klann_lightning.models.gcn import Gcn
from klann_lightning.models.oversampled import REACH, Oversampled, oversampled, phase_taps
from klann_lightning.streaming import StreamingRunner

RATE = 44100


class Curve(AudioModel):
    """y = x + bend x^3: third harmonics and no memory."""

    def __init__(self, bend):
        super().__init__(RATE)
        self.bend = nn.Parameter(torch.tensor(bend, dtype=torch.float64))

    def init_state(self, batch):
        return (torch.zeros(batch, 1),)

    def step(self, x, state):
        return x + self.bend * x**3, state


def play(model, x):
    with torch.no_grad():
        return model.play_whole(torch.from_numpy(x)).numpy()


@pytest.mark.parametrize("factor", [2, 4])
def test_the_filter_passes_what_is_heard_and_stops_what_folds(factor):
    taps = phase_taps(factor)
    assert taps.shape == (factor - 1, 2 * REACH)
    whole = np.zeros((2 * REACH, factor))
    whole[:, 1:] = taps.T
    whole[REACH, 0] = 1
    frequencies, response = np.fft.rfftfreq(2**16, 1 / factor), np.fft.rfft(whole.ravel(), 2**16) / factor
    gain = np.abs(response)
    assert np.abs(gain[frequencies < 0.91 / 2] - 1).max() < 1e-4
    assert 20 * np.log10(gain[frequencies > 1.09 / 2].max()) < -85
    assert gain[0] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("factor", [2, 4])
def test_what_bends_nothing_is_late_and_no_different(factor):
    rng, model = np.random.default_rng(0), Oversampled(Curve(0.0), factor)
    spectrum = np.fft.rfft(rng.uniform(-1, 1, 8192))
    spectrum[int(0.9 * 4096) :] = 0
    x = np.fft.irfft(spectrum)
    assert model.delay == 64
    y = play(model, np.concatenate([x, np.zeros(64)]))[64:]
    middle = slice(200, -200)
    assert off_db(torch.from_numpy(y[middle]), torch.from_numpy(x[middle])) < -85


def test_a_third_harmonic_above_nyquist_no_longer_folds():
    """Of 9 kHz it is 27 kHz, and folds to 17.1 kHz."""
    model = Curve(0.5)
    folded = [
        aliasing(lambda x, one=one: play(one, x), RATE, 0.5, [9000.0]).overall_db
        for one in (model, Oversampled(model, 2), Oversampled(model, 4))
    ]
    assert folded[0] > -30
    assert folded[1] < -80
    assert folded[2] < -80


@pytest.mark.parametrize("name", ["small series", "small parallel"])
def test_a_klann_folds_less(name):
    model = system(name)
    folded = [
        aliasing(lambda x, one=one: play(one, x.astype(np.float32)), RATE, 0.3, [5000.0, 9000.0]).overall_db
        for one in (model, Oversampled(model, 2), Oversampled(model, 4))
    ]
    assert folded[0] > folded[1] + 6 > folded[2] + 12


@pytest.mark.parametrize("factor", [2, 4])
def test_one_phase_is_the_model_itself(factor):
    """The copies know nothing of each other, so the first one's filters are those that were trained."""
    model, x = copy.deepcopy(system("small series")).double(), np.random.default_rng(1).uniform(-1, 1, 3000)
    over = Oversampled(model, factor)
    state = over.init_state(1)
    with torch.no_grad():
        _, (_, made, *_) = over.step(torch.from_numpy(x)[None], state)
    late = np.concatenate([np.zeros(REACH), x])[: len(x)]
    known = torch.from_numpy(play(model, late))[-over.delay :]
    assert off_db(made[0, 0], known) < -240


@pytest.mark.parametrize("model", [system("small series"), Gcn(1, 2, channels=2, film_block=32).eval()])
def test_blocks_of_any_size_give_the_same(model):
    x = np.random.default_rng(0).uniform(-1, 1, 3000).astype(np.float32)
    over = Oversampled(model, 2)
    runner = StreamingRunner(over)
    assert runner.latency == 64 + model.block - 1
    played = [runner.process(block) for block in np.split(x, [1, 64, 65, 1000, 1777])]
    assert sum(map(len, played)) == len(x)
    played = np.concatenate([*played, runner.finish()])
    assert len(played) == len(x) + runner.latency
    known = play(over, np.concatenate([x, np.zeros(64, np.float32)]))[64:]
    late = torch.from_numpy(played[runner.latency :])
    assert off_db(late, torch.from_numpy(known)) < -110


def test_a_recording_is_played_in_step(tmp_path):
    model, x = system("small series"), np.random.default_rng(0).uniform(-1, 1, 3000).astype(np.float32)
    write_document(tmp_path / "model.json", document(model))
    write_audio(tmp_path / "in.wav", x, RATE)
    main(
        [
            "process",
            *(str(tmp_path / name) for name in ("model.json", "in.wav", "out.wav")),
            "--oversampling=2",
        ]
    )
    late = play(Oversampled(model, 2), np.append(x, np.zeros(64, np.float32)))[64:]
    assert off_db(torch.from_numpy(read_audio(tmp_path / "out.wav")), torch.from_numpy(late)) < -110


def test_other_factors_are_refused():
    model = system("small series")
    assert oversampled(model, 1) is model
    with pytest.raises(ConfigError, match="oversampling is by 1, 2, 4, not by 3"):
        oversampled(model, 3)


def test_it_says_what_it_costs():
    model = system("small series")
    taps = 2 * REACH
    assert Oversampled(model, 4).multiply_adds() == 4 * model.multiply_adds() + 2 * 3 * taps
