"""Recordings as training sees them: what is read, what is scored, what is refused before it starts."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import write_root

from klann_lightning.data.audio import read_audio, write_audio
from klann_lightning.data.datamodule import PairedDataModule
from klann_lightning.data.feeds import Readers, Segments
from klann_lightning.errors import ConfigError, PairError


def module(root, stage="fit", device="tiny", **more):
    data = PairedDataModule(device, root, **more)
    data.setup(stage)
    return data


def test_segments_are_the_files_samples_after_zeros(tiny_root):
    feed = Segments(length=100, warmup=1000, batch=4, hop=100)
    (root_input, root_target) = (tiny_root / "train" / f"tiny-{side}.wav" for side in ("input", "target"))
    padded = np.concatenate([np.zeros(1000, np.float32), read_audio(root_input)])
    wanted = np.concatenate([np.zeros(1000, np.float32), read_audio(root_target)])
    data = module(tiny_root, train=feed)
    plans = feed.share([44100], torch.initial_seed(), 0, 0, 1)
    for batch, plan in zip(data.train_dataloader(), plans, strict=True):
        assert batch["input"].shape == batch["target"].shape == (4, 1100)
        assert batch["skip"] == 1000
        for row, cut in enumerate(plan.cuts):
            here = slice(cut.start + 1000, cut.start + 2100)
            assert np.array_equal(batch["input"][row], padded[here])
            assert np.array_equal(batch["target"][row], wanted[here])


def test_readers_batches_follow_each_other(tiny_root):
    data = module(tiny_root, train=Readers(readers=2, length=4000, batches_per_epoch=12))
    source = np.concatenate([np.zeros(6000), read_audio(tiny_root / "train" / "tiny-input.wav")])
    batches = list(data.train_dataloader())
    assert len(batches) == 12
    for before, now in pairwise(batches):
        for row in range(2):
            if not now["fresh"][row]:
                joined = torch.cat([before["input"][row], now["input"][row]]).numpy()
                start = np.flatnonzero(source == joined[-1])[0] - 7999
                assert np.array_equal(joined, source[start : start + 8000])


def test_an_epoch_has_an_order_of_its_own(tiny_root):
    data = module(tiny_root, train=Segments(length=1000, warmup=0, batch=4, hop=1000))
    loader = data.train_dataloader()
    first = [batch["input"] for batch in loader]
    loader.sampler.set_epoch(1)
    second = [batch["input"] for batch in loader]
    assert not all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_validation_feeds_whole_files_and_skips_the_context(tiny_root):
    batches = list(module(tiny_root, context_seconds=0.1).val_dataloader())
    assert sum(batch["input"].shape[1] for batch in batches) == 22050
    assert sum(batch["skip"] for batch in batches) == 4410
    assert all(batches[0]["fresh"])
    assert batches[-1]["last"]


def test_several_takes_and_devices_are_all_read(tiny_root):
    for split in ("train", "val", "test"):
        for name in ("tiny-two", "other"):
            for side in ("input", "target"):
                samples = read_audio(tiny_root / split / f"tiny-{side}.wav")
                write_audio(tiny_root / split / f"{name}-{side}.wav", samples, 44100)
    assert {batch["name"] for batch in module(tiny_root).val_dataloader()} == {"tiny", "tiny-two"}
    data = module(tiny_root, device=["tiny", "other"])
    assert {batch["name"] for batch in data.val_dataloader()} == {"tiny", "tiny-two", "other"}


def test_levels_are_the_rms_of_the_training_files(tiny_root):
    for side, level in zip(("input", "target"), module(tiny_root).levels(), strict=True):
        samples = read_audio(tiny_root / "train" / f"tiny-{side}.wav").astype(np.float64)
        assert level == pytest.approx(np.sqrt(np.mean(samples**2)))


def test_less_of_a_recording_is_its_opening(tiny_root):
    """Nothing of the rest is seen, its level neither; val stays whole."""
    whole = module(tiny_root)
    data = module(tiny_root, train_seconds=0.25, train=Segments(length=1000, warmup=0, batch=1, hop=1000))
    opening = read_audio(tiny_root / "train" / "tiny-input.wav", 0, 11025)
    assert data.levels()[0] == pytest.approx(np.sqrt(np.mean(np.square(opening, dtype=np.float64))), rel=1e-9)
    seen = np.sort(torch.cat([batch["input"].flatten() for batch in data.train_dataloader()]).numpy())
    assert np.array_equal(seen, np.sort(opening[:11000]))
    assert data.pairs["val"] == whole.pairs["val"]
    assert module(tiny_root, train_seconds=100.0).pairs == whole.pairs


def test_workers_read_the_same(tiny_root):
    feed = Readers(readers=2, length=4000, batches_per_epoch=3)
    here = list(module(tiny_root, train=feed).train_dataloader())
    there = list(module(tiny_root, train=feed, num_workers=1).train_dataloader())
    assert all(torch.equal(a["input"], b["input"]) for a, b in zip(here, there, strict=True))


def test_another_rate_is_refused_unless_resampling_is_asked_for(tmp_path):
    root = write_root(tmp_path, np.tanh, rate=48000)
    words = r"tiny-input\.wav is 48000 Hz, the experiment is 44100 Hz. Set data.resample"
    with pytest.raises(PairError, match=words):
        module(root)
    data = module(root, resample=True)
    assert [pair.frames for pair in data.pairs["train"]] == [44100]
    assert data.pairs["val"][0].sample_rate == 44100
    copies = data.pairs["val"][0].input
    data.teardown("fit")
    assert not copies.exists()


def test_files_that_end_within_the_context_are_refused(tiny_root):
    with pytest.raises(
        PairError, match=r"22050 samples; after 22050 of context\s+at least 4096 must be left"
    ):
        module(tiny_root, context_seconds=0.5)


def test_the_test_files_are_checked_when_they_are_needed(tiny_root):
    (tiny_root / "test" / "tiny-target.wav").unlink()
    recordings = module(tiny_root)
    with pytest.raises(PairError, match=r"tiny-input\.wav has no target"):
        recordings.setup("test")


@pytest.mark.parametrize("wrong", [{"sample_rate": 0}, {"context_seconds": -1.0}, {"train_seconds": 0.0}])
def test_impossible_settings_are_refused(tiny_root, wrong):
    with pytest.raises(ConfigError, match="must be at least"):
        module(tiny_root, **wrong)
