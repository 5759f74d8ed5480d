"""A model block by block, and between a sound card's input and output."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_export import off_db, system

from klann_lightning.errors import ConfigError
from klann_lightning.live import play_live
from klann_lightning.models.gcn import Gcn
from klann_lightning.streaming import StreamingRunner


def noise(samples):
    return np.random.default_rng(0).uniform(-1, 1, samples).astype(np.float32)


def blocks_of(x, *sizes):
    at = 0
    while at < len(x):
        for size in sizes:
            if at < len(x):
                yield x[at : at + size]
            at += size


@pytest.mark.parametrize("sizes", [(1, 63, 64, 65, 1000), (512,), (5000,)])
def test_any_blocks_give_the_sound_of_the_whole(sizes):
    model, x = system("small series"), noise(5000)
    runner = StreamingRunner(model)
    assert runner.latency == 0
    played = np.concatenate([runner.process(block) for block in blocks_of(x, *sizes)])
    assert len(runner.finish()) == 0
    with torch.no_grad():
        assert off_db(torch.from_numpy(played), model.play_whole(torch.from_numpy(x))) < -120


def test_a_model_that_works_on_blocks_is_late_by_them():
    torch.manual_seed(0)
    model, x = Gcn(1, 2, channels=2, film_block=32).eval(), noise(1000)
    runner = StreamingRunner(model)
    assert runner.latency == model.block - 1 == 31
    parts = [runner.process(block) for block in blocks_of(x, 7, 50, 1, 32)]
    assert [len(part) for part in parts] == [len(block) for block in blocks_of(x, 7, 50, 1, 32)]
    played = np.concatenate([*parts, runner.finish()])[runner.latency :]
    with torch.no_grad():
        assert off_db(torch.from_numpy(played), model.play_whole(torch.from_numpy(x))) < -110


def test_a_reset_begins_anew_and_time_is_counted():
    runner, x = StreamingRunner(system("small parallel")), noise(4410)
    assert runner.played_seconds == 0
    first = runner.process(x)
    assert runner.played_seconds == pytest.approx(0.1)
    assert runner.real_time_factor > 0.1
    assert not np.array_equal(runner.process(x), first)
    runner.reset()
    np.testing.assert_array_equal(runner.process(x), first)


class Card:
    """A sound card that has `blocks` for us, and one xrun among them."""

    def __init__(self, blocks):
        self.blocks, self.heard = blocks, []
        self.PortAudioError = type("PortAudioError", (Exception,), {})

    def Stream(self, rate, block, channels, dtype, callback):  # noqa: N802
        self.settings = rate, block, channels, dtype
        if rate != 44100:
            raise self.PortAudioError("Invalid sample rate")
        self.callback = callback
        return self

    latency = (0.005, 0.005)

    def __enter__(self):
        for index, block in enumerate(self.blocks):
            out = np.full((len(block), 1), np.nan, np.float32)
            self.callback(block[:, None], out, len(block), None, index == 2)
            self.heard.append(out[:, 0])
        return self

    def __exit__(self, *error):
        return False


def test_live_playing_is_the_model_and_counts_what_was_lost(monkeypatch, capsys):
    model, x = system("small parallel"), noise(6400)
    card = Card(list(blocks_of(x, 64)))
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    assert play_live(model, 64, seconds=0.3) == "0.1 s played, 1 xruns"
    assert card.settings == (44100, 64, 1, "float32")
    with torch.no_grad():
        known = model.play_whole(torch.from_numpy(x))
    assert off_db(torch.from_numpy(np.concatenate(card.heard)), known) < -120
    said = capsys.readouterr().out
    assert "playing at 44100 Hz in blocks of 64, 10.0 ms late" in said
    assert "in   -0.0 dB" in said
    assert "xruns 1" in said


def test_live_playing_without_sound_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", Card([]))
    with pytest.raises(
        ConfigError, match=r"cannot play at 48000 Hz in blocks of 64: Invalid sample rate\. Try"
    ):
        play_live(system("one channel"), 64, seconds=0.1)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ConfigError, match=r"pip install 'klann_lightning\[live\]'"):
        play_live(system("small parallel"), 64)


def test_live_playing_ends_by_ctrl_c(monkeypatch):
    monkeypatch.setitem(sys.modules, "sounddevice", Card([noise(64)]))

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "klann_lightning.live.time", SimpleNamespace(sleep=interrupted, monotonic=lambda: 0.0)
    )
    assert play_live(system("small parallel"), 64) == "0.0 s played, 0 xruns"
