"""Every figure of one model, with what it shows in words: for a page, and for the records of a training."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import torch

from klann_lightning.aliasing import sine_spectrum
from klann_lightning.charts import (
    costs_figure,
    curves_figure,
    filters_figure,
    harmonics_figure,
    level_figure,
    onset_figure,
    poles_figure,
    step_figure,
)
from klann_lightning.dynamics import StepResponse, TimeConstant, level_curve, onsets, step_responses
from klann_lightning.fidelity import Samples, Signal
from klann_lightning.models.base import AudioModel
from klann_lightning.reading import KlannReading
from klann_lightning.units import seconds

SINE_HZ = 1000.0
SINE_LEVELS_DB = (0.0, -12.0, -24.0)  # re the recording's
QUIET_PERCENTILE, LOUD_PERCENTILE = 10, 99  # of a recording's levels, between which sines are played


class Drawn(NamedTuple):
    """A figure and what it shows."""

    title: str
    note: str
    figure: go.Figure


def of_output(source: Signal, target: Signal, output: Signal, sample_rate: int) -> dict[str, Drawn]:
    """What a recording [T] tells of an output and its target: `levels`, and `onsets` if it has any."""
    curves = {
        "Target": level_curve(source, target, sample_rate),
        "Output": level_curve(source, output, sample_rate),
    }
    drawn = {
        "levels": Drawn(
            "Level in, level out",
            "Each point is 50 ms of the recording; the lines are their medians. Where they bend away from "
            "the dotted line's slope, the level is compressed.",
            level_figure(curves),
        )
    }
    found = onsets(source, {"Target": target, "Output": output}, sample_rate)
    if found is not None:
        drawn["onsets"] = Drawn(
            "Gain after an onset",
            f"Mean of {found.places} places where the recording rises by 12 dB at once: the attack, as far "
            "as the recording shows it.",
            onset_figure(found),
        )
    return drawn


def of_model(model: AudioModel, source: Signal) -> tuple[dict[str, Drawn], list[StepResponse]]:
    """What sines as loud as a recording [T] tell of a model: `harmonics`, `steps` if its gain falls.

    Nothing of a silent recording.
    """
    rate = model.sample_rate
    if not np.any(source):
        return {}, []
    level = float(np.sqrt(np.mean(np.square(source, dtype=np.float64))))

    def play(samples: Samples) -> Samples:
        return played(model, samples.astype(np.float32))

    spectra = [sine_spectrum(play, rate, level * 10 ** (db / 20), SINE_HZ) for db in SINE_LEVELS_DB]
    drawn = {
        "harmonics": Drawn(
            "Harmonics of a sine, and aliasing",
            "A sine as loud as the recording, then 12 and 24 dB below it. Whatever lies between the "
            "harmonics is aliasing, or noise.",
            harmonics_figure(spectra, rate),
        )
    }
    levels_db = level_curve(source, source, rate).input_db
    low_db, high_db = (
        np.percentile(levels_db, (QUIET_PERCENTILE, LOUD_PERCENTILE)) if levels_db.size else (0, 0)
    )
    responses = step_responses(play, rate, float(low_db), float(high_db))
    if responses:
        said = " ".join(described(response) for response in responses)
        drawn["steps"] = Drawn("Attack and release", said, step_figure(responses))
    return drawn, responses


def of_inside(reading: KlannReading) -> dict[str, Drawn]:
    """What is inside a KLANN, by name."""
    channels = {channel.name: channel for channel in reading.channels}
    curves = {name: channel.curve for name, channel in channels.items()}
    poles = {name: [p for biquad in c.biquads for p in biquad.poles] for name, c in channels.items()}
    zeros = {name: [z for biquad in c.biquads for z in biquad.zeros] for name, c in channels.items()}
    return {
        "curves": Drawn(
            "Curves",
            "What a sample from -1 to 1 becomes before it enters each filter, while the filters before it "
            "stand still.",
            curves_figure(next(iter(curves.values())).x, {name: curve.u for name, curve in curves.items()}),
        ),
        "filters": Drawn(
            "Filters",
            "Magnitude and phase of each channel's filters.",
            filters_figure(
                reading.frequencies_hz,
                {name: channel.magnitude_db for name, channel in channels.items()},
                {name: channel.phase_deg for name, channel in channels.items()},
            ),
        ),
        "poles": Drawn(
            "Poles and zeros",
            "Crosses are poles, circles are zeros; the nearer a pole is to the circle, the longer it lasts. "
            "What is slow lies near z = 1, shown larger.",
            poles_figure(poles, zeros),
        ),
        "costs": Drawn(
            "What each channel is worth",
            "By how much the ESR rises where a channel's filter stands still at its mean.",
            costs_figure({name: channel.cost_db for name, channel in channels.items()}),
        ),
    }


def described(response: StepResponse) -> str:
    """A step in words.

    >>> from klann_lightning.dynamics import StepResponse, TimeConstant
    >>> down, up = np.zeros(2), np.full(2, -3.0)
    >>> described(StepResponse(-40, -20, down, up, down, [TimeConstant(0.01, 3)], []))
    'Into 3.0 dB of gain reduction: attack 10 ms, release not to be told.'
    """
    attack, release = spoken(response.attack), spoken(response.release)
    return f"Into {response.depth_db:.1f} dB of gain reduction: attack {attack}, release {release}."


def spoken(parts: Sequence[TimeConstant]) -> str:
    """Time constants in ms or s, fastest first."""
    return " and ".join(seconds(1000 * part.seconds, digits=3) for part in parts) or "not to be told"


@torch.no_grad()
def played(model: AudioModel, samples: Signal) -> Samples:
    """What a model makes of a recording [T]."""
    source = torch.from_numpy(np.ascontiguousarray(samples)).to(model.input_level)
    output: Samples = model.play_whole(source).cpu().double().numpy()
    return output
