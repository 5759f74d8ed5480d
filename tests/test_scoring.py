"""A line's scores, against other ways to the same numbers; and what others made of the recordings."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from auraloss.freq import MultiResolutionSTFTLoss
from conftest import write_root

from klann_lightning.comparison.scoring import PLAYED_SECONDS, Recordings, cost_of
from klann_lightning.data.audio import read_audio, write_audio
from klann_lightning.data.datamodule import PairedDataModule
from klann_lightning.data.resampling import resampled
from klann_lightning.errors import PairError
from klann_lightning.evaluate import Fir, score
from klann_lightning.losses import StftResolutions
from klann_lightning.models.klann import ParallelKlann

RATE, CONTEXT = 44100, 4410


@pytest.fixture
def root(tmp_path) -> Path:
    """Two takes to test, of different lengths; the name of one begins with the other's."""
    root = write_root(tmp_path / "data", lambda x: np.tanh(2 * x))
    noise = np.random.default_rng(9).uniform(-0.5, 0.5, 30000).astype(np.float32)
    write_audio(root / "test" / "tiny-2-input.wav", noise, RATE)
    write_audio(root / "test" / "tiny-2-target.wav", np.tanh(3 * noise), RATE)
    return root


def recordings(root: Path, **options) -> Recordings:
    return Recordings(PairedDataModule("tiny", root, context_seconds=0.1, **options), "test")


@pytest.fixture
def model() -> ParallelKlann:
    torch.manual_seed(0)
    return ParallelKlann([3], 2)


def test_scores_are_those_of_evaluate(root, model):
    test = recordings(root)
    scores = test.scores(test.played(model))
    data = PairedDataModule("tiny", root, context_seconds=0.1)
    data.setup("test")
    expected = score(model, data.whole_files("test"), StftResolutions())
    for name in ("esr_db", "mr_stft", "l1"):
        assert getattr(scores, name) == pytest.approx(expected[name], rel=1e-5), name


def test_errors_are_sums_over_all_scored_samples(root, model):
    test = recordings(root)
    outputs = test.played(model)
    pairs = zip(outputs, test.takes, strict=True)
    both = [(y[CONTEXT:].astype(float), take.target[CONTEXT:].astype(float)) for y, take in pairs]
    ours, theirs = (np.concatenate(part) for part in zip(*both, strict=True))
    scores = test.scores(outputs)
    esr_db = 10 * math.log10(((ours - theirs) ** 2).sum() / (theirs**2).sum())
    assert scores.esr_db == pytest.approx(esr_db, abs=1e-5)
    assert scores.l1 == pytest.approx(np.abs(ours - theirs).mean(), rel=1e-6)


def test_the_second_mr_stft_is_that_of_auraloss(root, model):
    test = recordings(root)
    test.takes = test.takes[:1]
    (output,) = test.played(model)
    ours, theirs = (torch.from_numpy(x[CONTEXT:])[None, None] for x in (output, test.takes[0].target))
    expected = float(MultiResolutionSTFTLoss()(ours, theirs))
    assert test.scores([output]).mr_stft_auraloss == pytest.approx(expected, rel=1e-4)


def test_a_target_scores_as_itself(root):
    test = recordings(root)
    scores = test.scores([take.target for take in test.takes])
    assert (scores.esr_db, scores.l1, scores.log_spectral_distance_db) == (-math.inf, 0, 0)


def test_what_needs_no_model_is_ordered(root):
    lines = dict(recordings(root).without_a_model())
    as_it_is, gain, taps = (scores.esr_db for scores in lines.values())
    assert list(lines) == ["input as it is", "best gain", "best 512-tap filter"]
    assert taps < gain < as_it_is


def test_resampled_recordings_last(root):
    """Longer than the folder that they are read from."""
    test = recordings(root, sample_rate=22050, resample=True)
    assert (test.sample_rate, test.context) == (22050, CONTEXT // 2)
    for take, name in zip(test.takes, ("tiny", "tiny-2"), strict=True):
        for side, samples in (("input", take.input), ("target", take.target)):
            whole = read_audio(root / "test" / f"{name}-{side}.wav")
            expected = np.concatenate(list(resampled([whole], len(whole), RATE, 22050)))
            np.testing.assert_allclose(samples, expected, atol=1e-6)
    lines = dict(test.without_a_model())
    assert lines["input as it is"] == test.scores([take.input for take in test.takes])
    as_it_is, gain, taps = (scores.esr_db for scores in lines.values())
    assert taps < gain < as_it_is


def test_what_a_model_costs():
    taps = torch.zeros(5)
    taps[1] = 2.0
    cost = cost_of(Fir(taps), 0.1)
    assert (cost.parameters, cost.multiply_adds, cost.look_ahead) == (0, 5, 0)
    assert cost.real_time > PLAYED_SECONDS
    assert cost.aliasing_db < -100  # a linear filter has none but rounding


def test_outputs_of_others_are_scored_on_all_takes(root, tmp_path):
    test = recordings(root)
    folder = tmp_path / "played"
    for take, name in (
        *(("tiny", "tiny-mine"), ("tiny-2", "tiny-2-mine")),
        *(("tiny-2", "tiny-2-b"), ("tiny", "other-x")),
    ):
        source = read_audio(root / "test" / f"{take}-input.wav")
        write_audio(folder / f"{name}.wav", 2 * source, RATE)
    # tiny-2-b.wav is tiny-2's of a system b, not tiny's of a system 2-b
    with pytest.raises(PairError, match=r"has no tiny-b\.wav: a system is scored on all takes"):
        dict(test.elsewhere(folder))
    (folder / "tiny-2-b.wav").unlink()
    found = dict(test.elsewhere(folder))
    assert list(found) == ["mine"]
    expected = test.scores(test.played(Fir(torch.tensor([2.0]))))
    assert found["mine"].esr_db == pytest.approx(expected.esr_db, abs=1e-4)


@pytest.mark.parametrize(
    ("samples", "rate", "words"),
    [
        (22049, RATE, r"tiny-mine\.wav has 22049 samples, tiny has 22050"),
        (22050, 48000, r"tiny-mine\.wav is 48000 Hz, tiny is 44100 Hz\. Resample it"),
    ],
)
def test_an_output_that_does_not_fit_is_refused(root, tmp_path, samples, rate, words):
    write_audio(tmp_path / "played" / "tiny-mine.wav", np.ones(samples), rate)
    write_audio(tmp_path / "played" / "tiny-2-mine.wav", np.ones(30000), RATE)
    with pytest.raises(PairError, match=words):
        dict(recordings(root).elsewhere(tmp_path / "played"))


def test_a_stereo_output_is_refused(root, tmp_path):
    import soundfile

    (tmp_path / "played").mkdir()
    soundfile.write(tmp_path / "played" / "tiny-mine.wav", np.ones((22050, 2)), RATE)
    write_audio(tmp_path / "played" / "tiny-2-mine.wav", np.ones(30000), RATE)
    with pytest.raises(PairError, match=r"tiny-mine\.wav has 2 channels"):
        dict(recordings(root).elsewhere(tmp_path / "played"))
