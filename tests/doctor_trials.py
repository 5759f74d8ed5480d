"""How well the doctor finds what was put in: `python tests/doctor_trials.py [TRIALS] [SEED]`.

Each trial plays a dry performance of 20 to 60 s through one of the simulated effects, moves the result by a
delay from -10,000 to 10,000 samples, turns it over or not, lets its clock drift in half of the trials, and
adds noise 80 dB below it. The table goes between the marks in docs/doctor.md.
"""

import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from effects import CLASS_OF, EFFECTS

from klann_lightning.data.signals import dry_signal
from klann_lightning.doctor.align import align
from klann_lightning.doctor.source import Source
from klann_lightning.doctor.warp import Line, warp

RATE = 44100
PAGE = Path(__file__).parents[1] / "docs" / "doctor.md"
MARKS = ("<!-- trials -->\n", "<!-- end of trials -->\n")
LIMIT = {"clean": 0.1, "linear": 0.1, "light": 0.1, "dynamics": 0.1}  # samples; 2 for the others
UNSURE = 0.5  # a confidence below it says that the figure is not to be trusted


class Trial(NamedTuple):
    """What was put in, and what was found."""

    effect: str
    delay: float
    drift_ppm: float
    polarity: int
    found_delay: float
    found_drift: float
    found_polarity: int
    confidence: float
    polarity_confidence: float
    found_jumps: int  # none was put in

    @property
    def right(self) -> bool:
        return abs(self.found_delay - self.delay) < LIMIT.get(CLASS_OF[self.effect], 2.0)

    @property
    def drift_right(self) -> bool:
        return abs(self.found_drift - self.drift_ppm) <= 0.05 * abs(self.drift_ppm)


def trial(seed: int) -> Trial:
    """One trial; the seed decides everything."""
    rng = np.random.default_rng(seed)
    effect = list(EFFECTS)[seed % len(EFFECTS)]
    dry = dry_signal(float(rng.uniform(20, 60)), RATE, int(rng.integers(10**6)))
    wet = EFFECTS[effect](dry, RATE)
    wet = wet + 1e-4 * np.sqrt(np.mean(wet**2)) * rng.standard_normal(len(wet))
    delay, polarity = float(rng.uniform(-10_000, 10_000)), int(rng.choice([-1, 1]))
    ppm = float(rng.choice([-1, 1]) * 10 ** rng.uniform(0, np.log10(500))) if rng.random() < 0.5 else 0.0
    slope = 1 / (1 + ppm * 1e-6)
    moved = warp([wet.astype(np.float32)], [Line(0, -delay * slope, slope)], len(wet))
    late = polarity * np.concatenate(list(moved)).astype(float)
    found = align(Source(dry, RATE), Source(late, RATE))
    if found is None:
        return Trial(effect, delay, ppm, polarity, np.nan, np.nan, 0, 0.0, 0.0, 0)
    told = found.alignment
    return Trial(
        effect,
        delay,
        ppm,
        polarity,
        told.delay,
        told.drift_ppm,
        told.polarity,
        told.confidence,
        told.polarity_confidence,
        len(told.jumps),
    )


def table(trials: Sequence[Trial]) -> str:
    """Markdown: one row for each class of effects, and one for all."""
    rows = [
        "| effects | trials | delay right | wrong, unflagged | median error (samples) | polarity right "
        "| drift within 5 % | false drifts | false jumps |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    classes = sorted({CLASS_OF[one.effect] for one in trials})
    for name in [*classes, "all"]:
        part = [one for one in trials if name in ("all", CLASS_OF[one.effect])]
        names = ", ".join(sorted({one.effect for one in part})) if name != "all" else ""
        drifting = [one for one in part if one.drift_ppm]
        still = [one for one in part if not one.drift_ppm]
        errors = [abs(one.found_delay - one.delay) for one in part]
        unflagged = sum(not one.right and one.confidence >= UNSURE for one in part)
        rows.append(
            f"| {name}{f': {names}' if names else ''} | {len(part)} | {sum(one.right for one in part)} "
            f"| {unflagged} | {np.nanmedian(errors):.3f} "
            f"| {sum(one.found_polarity == one.polarity for one in part)} "
            f"| {sum(one.drift_right for one in drifting)} of {len(drifting)} "
            f"| {sum(one.found_drift != 0 for one in still)} of {len(still)} "
            f"| {sum(one.found_jumps > 0 for one in part)} |"
        )
    return "\n".join(rows) + "\n"


def main(words: Sequence[str]) -> None:
    count = int(words[0]) if words else 208
    first = int(words[1]) if len(words) > 1 else 0
    with ProcessPoolExecutor(2) as pool:
        trials = list(pool.map(trial, range(first, first + count)))
    said = table(trials)
    print(said)
    for one in trials:
        if not one.right or (one.drift_ppm and not one.drift_right) or one.found_polarity != one.polarity:
            print(one)
    page = PAGE.read_text()
    start, end = page.index(MARKS[0]) + len(MARKS[0]), page.index(MARKS[1])
    PAGE.write_text(page[:start] + said + page[end:])


if __name__ == "__main__":
    main(sys.argv[1:])
