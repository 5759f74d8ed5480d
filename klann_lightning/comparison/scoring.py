"""Every score of a table's line: of a trained model, or of what something else made of the recordings."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from klann_lightning.aliasing import aliasing
from klann_lightning.comparison.tables import Row
from klann_lightning.data.audio import audio_info, read_audio
from klann_lightning.data.datamodule import PairedDataModule
from klann_lightning.errors import PairError
from klann_lightning.evaluate import fixed_filters
from klann_lightning.fidelity import fidelity, noise_floor
from klann_lightning.losses import StftResolutions
from klann_lightning.measuring import repeated
from klann_lightning.metrics import FileScores, WholeFileStft
from klann_lightning.models.base import AudioModel

Samples = NDArray[np.float32]
AURALOSS = StftResolutions([1024, 2048, 512], [120, 240, 50], [600, 1200, 240])  # its defaults
PLAYED_SECONDS = 10  # of audio, for the real-time multiple
PLAYED_RUNS = 5


@dataclass(frozen=True)
class Scores:
    """Of outputs beside their targets; what of a file's opening is context is not scored."""

    esr_db: float
    mr_stft: float  # the paper's resolutions
    mr_stft_auraloss: float  # auraloss' default resolutions
    l1: float
    log_spectral_distance_db: float
    loudness_error_lu: float  # without its sign, which would cancel over takes and seeds
    crest_error_db: float
    envelope_error_db: float


@dataclass(frozen=True)
class Cost:
    """Of a model that plays."""

    parameters: int
    multiply_adds: int  # a sample
    look_ahead: int  # samples
    real_time: float  # seconds of audio played in a second, in long blocks
    aliasing_db: float  # of sines as loud as the recordings


@dataclass(frozen=True)
class Take:
    """One pair of recordings in memory, [T] each."""

    name: str
    input: Samples
    target: Samples


class Recordings:
    """A split of a device's recordings, of minutes at most: everything lies in memory."""

    def __init__(self, data: PairedDataModule, split: str) -> None:
        data.setup({"train": "fit", "val": "validate", "test": "test"}[split])
        self.sample_rate, self.context = data.sample_rate, data.context
        self.batches = list(data.whole_files(split))
        self.takes = [
            Take(pair.name, *(read_audio(path, 0, pair.frames) for path in (pair.input, pair.target)))
            for pair in data.pairs[split]
        ]
        data.teardown(split)  # resampled copies go

    def level(self) -> float:
        """RMS of the inputs."""
        return float(np.sqrt(np.mean(np.square(np.concatenate([take.input for take in self.takes])))))

    def scores(self, outputs: Sequence[Samples]) -> Scores:
        """Of one output a take; what is no sum over files is the mean over them, by their length."""
        paper, auraloss = FileScores(StftResolutions(), shared=False), WholeFileStft(AURALOSS, shared=False)
        heard, lengths = [], []
        for take, output in zip(self.takes, outputs, strict=True):
            ours, theirs = output[self.context :], take.target[self.context :]
            for metric in (paper, auraloss):
                metric.update(torch.from_numpy(ours)[None], torch.from_numpy(theirs)[None])
            heard.append(np.abs(fidelity(ours, theirs, self.sample_rate)))
            lengths.append(len(ours))
        whole = paper.compute()
        means = np.average(np.array(heard), axis=0, weights=lengths)
        return Scores(
            float(whole["esr_db"]),
            float(whole["mr_stft"]),
            float(auraloss.compute()),
            float(whole["l1"]),
            *means.tolist(),
        )

    def noise_floor_db(self) -> float:
        """The targets' quietest 100 ms over their power, the highest of all: no noise floor lies above it."""
        floors = [noise_floor(take.target[self.context :], self.sample_rate) for take in self.takes]
        return float(np.nanmax(floors))

    def without_a_model(self) -> Iterator[tuple[str, Scores]]:
        """Doing nothing, and the best gain and linear filter, both fitted to these very samples."""
        for name, filter in fixed_filters(self.batches).items():
            yield name, self.scores(self.played(filter))

    @torch.no_grad()
    def played(self, model: AudioModel) -> list[Samples]:
        """What a model makes of the takes."""
        return [model.play_whole(torch.from_numpy(take.input)).numpy() for take in self.takes]

    def elsewhere(self, folder: Path) -> Iterator[tuple[str, Scores]]:
        """What others made of the takes: files `<take>-<system>.wav`, as long as the take, aligned with it.

        Raises PairError for a file of another length or rate, and where a system lacks a take.
        """
        systems: dict[str, dict[str, Path]] = {}
        for path in sorted(folder.glob("*.wav")):
            of = [take.name for take in self.takes if path.name.startswith(f"{take.name}-")]
            if of:
                take = max(of, key=len)  # of comp and comp-2, comp-2-x.wav is the second's
                systems.setdefault(path.stem.removeprefix(f"{take}-"), {})[take] = path
        for system, files in systems.items():
            if missing := [f"{take.name}-{system}.wav" for take in self.takes if take.name not in files]:
                raise PairError(
                    f"{folder} has no {', '.join(missing)}: a system is scored on all takes. Add it, or move "
                    f"{', '.join(path.name for path in files.values())} elsewhere."
                )
            yield system, self.scores([self.output_of(files[take.name], take) for take in self.takes])

    def output_of(self, path: Path, take: Take) -> Samples:
        """What somebody made of a take; PairError where its length or its rate is not the take's."""
        rate, frames, _ = audio_info(path)
        if rate != self.sample_rate:
            raise PairError(
                f"{path} is {rate} Hz, {take.name} is {self.sample_rate} Hz. Resample it, or leave it out."
            )
        if frames != len(take.target):
            raise PairError(
                f"{path} has {frames} samples, {take.name} has {len(take.target)}: they must be as long as "
                "each other and aligned. Cut or pad it, or leave it out."
            )
        return read_audio(path)


@torch.no_grad()
def cost_of(model: AudioModel, level: float) -> Cost:
    """What a model costs on this machine, and what it adds to sines of this RMS."""

    def play(samples: NDArray[np.float64]) -> Samples:
        return model.play_whole(torch.from_numpy(samples).float()).numpy()

    noise = level * torch.randn(PLAYED_SECONDS * model.sample_rate)
    spent = repeated(lambda: model.play_whole(noise), PLAYED_RUNS, torch.device("cpu"), least=0)
    folded = aliasing(play, model.sample_rate, level).overall_db
    speed = PLAYED_SECONDS / float(np.median(spent))
    return Cost(model.parameter_count(), model.multiply_adds(), model.look_ahead, speed, folded)


def baseline_rows(device: str, recordings: Recordings) -> list[Row]:
    """Doing nothing, the best gain, the best linear filter, and where the noise floor lies below."""
    lines = [(name, as_row(scores)) for name, scores in recordings.without_a_model()]
    lines.append(("the target's quietest 100 ms", {"esr_db": recordings.noise_floor_db()}))
    return [untrained_row(device, name, scores) for name, scores in lines]


def untrained_row(device: str, system: str, scores: dict[str, Any]) -> Row:
    """The line of what no training has made."""
    return {"device": device, "system": system, "seed": None, **scores}


def as_row(*parts: Any) -> dict[str, Any]:
    """Scores and cost, one field a column."""
    return {name: value for part in parts for name, value in asdict(part).items()}
