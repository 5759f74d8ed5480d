"""Against the real devices' recordings, where they lie beside the project."""

import pytest
import torch

from klann_lightning.data.audio import read_audio
from klann_lightning.data.datamodule import PairedDataModule
from klann_lightning.data.pairs import check_pair
from klann_lightning.errors import PairError
from klann_lightning.evaluate import baselines
from klann_lightning.losses import StftResolutions
from klann_lightning.metrics import FileScores

CONTEXT = 44100
DEVICES = {"la2a": -7.03, "facebender-rndamp": -2.48, "mcomp-rndamp-A1msR1000ms": -14.05}


@pytest.mark.parametrize(
    ("device", "system", "esr_db", "mr_stft"),
    [
        ("la2a", "small-parallel", -12.84, 0.548),
        ("la2a", "large-parallel-series", -14.64, 0.480),
        ("facebender-rndamp", "small-parallel-series", -26.50, 0.690),
        ("mcomp-rndamp-A1msR1000ms", "gcntf-2500", -31.66, 0.383),
    ],
)
def test_the_authors_outputs_score_what_is_known_of_them(recordings, device, system, esr_db, mr_stft):
    output = torch.from_numpy(read_audio(recordings / "authors" / f"{device}-{system}.wav", CONTEXT))
    target = torch.from_numpy(read_audio(recordings / "test" / f"{device}-target.wav", CONTEXT))
    metric = FileScores(StftResolutions())
    metric.update(output[None], target[None])
    scores = metric.compute()
    assert scores["esr_db"].item() == pytest.approx(esr_db, abs=0.01)
    assert scores["mr_stft"].item() == pytest.approx(mr_stft, abs=0.001)


@pytest.mark.parametrize(("device", "gain_db"), DEVICES.items())
def test_the_best_gain_is_what_is_known_of_it(recordings, device, gain_db):
    data = PairedDataModule(device, recordings, context_seconds=1.0)
    data.setup("test")
    rows = {row.name: row.esr_db for row in baselines(data.whole_files("test"), StftResolutions())}
    assert rows["best gain"] == pytest.approx(gain_db, abs=0.01)


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        ("ts9_tubescreamer", "lengths differ by 150 frames"),
        ("openamp_rat_0", "lengths differ by 4410 frames"),
        ("lextac_low", "has 2 channels"),
    ],
)
def test_pairs_with_known_faults_are_refused(recordings, pair, words):
    folder = recordings / "problems" / pair
    with pytest.raises(PairError, match=words):
        check_pair(folder / "input.wav", folder / "target.wav")
