"""The baselines are the best of their kind, and the table says what was measured."""

import numpy as np
import pytest
import torch
from scipy.linalg import lstsq
from scipy.signal import lfilter

from klann_lightning.evaluate import Fir, baselines, best_taps, score
from klann_lightning.losses import StftResolutions
from klann_lightning.models.klann import ParallelKlann

RESOLUTIONS = StftResolutions()


def noise(frames, seed):
    return np.random.default_rng(seed).normal(size=frames).astype(np.float32)


def batches(source, target, block=5000, context=1000):
    """One file as PairedDataModule feeds it."""
    cuts = list(range(0, len(source), block))
    for start in cuts:
        part = slice(start, start + block)
        yield {
            "input": torch.from_numpy(source[part])[None],
            "target": torch.from_numpy(target[part])[None],
            "fresh": [start == 0],
            "skip": min(block, max(0, context - start)) if start == 0 else 0,
            "last": start == cuts[-1],
        }


def test_a_linear_device_is_found_exactly():
    source, taps = noise(20000, 0), np.array([0.5, -0.2, 0.1])
    target = lfilter(taps, 1, source).astype(np.float32)
    found = best_taps(list(batches(source, target)), 8)
    np.testing.assert_allclose(found, [0.5, -0.2, 0.1, 0, 0, 0, 0, 0], atol=1e-4)


def test_the_best_filter_is_the_least_squares_one():
    source, target = noise(20000, 0), noise(20000, 1) + 0.3 * noise(20000, 0)
    lagged = np.stack([source[1000 - k : 20000 - k] for k in range(8)], 1).astype(np.float64)
    expected = lstsq(lagged, target[1000:])[0]
    np.testing.assert_allclose(best_taps(list(batches(source, target)), 8), expected, atol=1e-3)


def test_the_best_gain_is_projection_on_the_scored_samples():
    source, target = noise(20000, 0), noise(20000, 1) + 0.3 * noise(20000, 0)
    target[:1000] = 50.0  # context, not scored
    x, y = source[1000:].astype(np.float64), target[1000:].astype(np.float64)
    assert best_taps(list(batches(source, target)), 1).item() == pytest.approx(x @ y / (x @ x), rel=1e-5)


def test_baselines_are_ordered_and_right():
    source = noise(20000, 0)
    target = np.tanh(source + 0.5 * np.roll(source, 3)).astype(np.float32)
    rows = baselines(list(batches(source, target)), RESOLUTIONS)
    assert [row.name for row in rows] == ["input as it is", "best gain", "best 512-tap filter"]
    assert rows[0].esr_db > rows[1].esr_db > rows[2].esr_db
    x, y = source[1000:].astype(np.float64), target[1000:].astype(np.float64)
    assert rows[0].esr_db == pytest.approx(10 * np.log10(((x - y) ** 2).sum() / (y**2).sum()), abs=1e-3)


def test_a_filter_in_blocks_is_the_filter():
    fir, x = (
        Fir(torch.randn(40, generator=torch.Generator().manual_seed(0))),
        torch.from_numpy(noise(500, 0))[None],
    )
    state, outputs = fir.init_state(1), []
    for part in x.split(7, -1):
        output, state = fir.step(part, state)
        outputs.append(output)
    expected = lfilter(fir.taps.numpy(), 1, x[0].numpy())
    np.testing.assert_allclose(torch.cat(outputs, -1)[0].numpy(), expected, atol=1e-5)


def test_a_score_does_not_depend_on_the_blocks():
    torch.manual_seed(0)
    model, source = ParallelKlann([3], 2), noise(20000, 0)
    whole = score(model, list(batches(source, source, 20000)), RESOLUTIONS)
    cut = score(model, list(batches(source, source, 2000)), RESOLUTIONS)
    assert cut == pytest.approx(whole, rel=1e-4)
