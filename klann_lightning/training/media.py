"""What a run leaves to look at and listen to: figures and audio, in its folder and in W&B."""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor

from klann_lightning.data.audio import AudioWriter, read_audio, write_audio
from klann_lightning.data.pairs import Pair
from klann_lightning.fidelity import Signal as Samples
from klann_lightning.models.base import AudioModel
from klann_lightning.models.klann import Klann
from klann_lightning.training.logs import WandbLog
from klann_lightning.training.module import EffectModule
from klann_lightning.training.stages import StageListener

ESR_SECONDS = 0.1  # of the windows of the ESR over time
LONGEST_SECONDS = 30  # of a recording that is drawn and played


class StageMedia(StageListener):
    """At every stage's end: the first validation file through the model, as figures and audio.

    In the run's folder: `<stage>/{waveform,spectrogram,filters}.png`, `<stage>/{output,target,residual}.wav`.
    W&B also gets the figures of a report's page: track, levels, steps, harmonics, and what is inside.
    """

    @rank_zero_only
    def on_stage_end(self, trainer: pl.Trainer, module: EffectModule, name: str) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir) / name
        data = trainer.datamodule  # type: ignore[attr-defined]
        model = copy.deepcopy(module.model).cpu().eval()
        logs = [logger for logger in trainer.loggers if isinstance(logger, WandbLog)]
        try:
            excerpt = _excerpt(model, data.pairs["val"][0], data.context)
            for part, samples in excerpt.sounds().items():
                write_audio(folder / f"{part}.wav", samples, model.sample_rate)
            for part, figure in _figures(model, excerpt, name).items():
                figure.savefig(folder / f"{part}.png", dpi=100)
            for log in logs:
                _log(log, folder, name, model.sample_rate)
                for part, chart in _charts(model, excerpt).items():
                    log.log_chart(f"{name}/{part}", chart)
        except Exception as error:  # of a disk, of numbers that cannot be drawn: a training outlives them
            rank_zero_info(
                f"not all figures and audio of {name}: {str(error).rstrip('.')}. The training goes on."
            )


class PredictionWriter(pl.Callback):
    """`predict`: every test file's output as `<run>/predictions/<name>-output.wav`."""

    def __init__(self) -> None:
        self._writer: AudioWriter | None = None
        self._folder = Path()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same folder for all ranks, each of which has files of its own."""
        self._folder = Path(trainer.strategy.broadcast(trainer.default_root_dir)) / "predictions"

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Tensor, batch: Any, *_: Any
    ) -> None:
        if not outputs.numel():  # of a rank that has no file
            return
        if self._writer is None:
            path = self._folder / f"{batch['name']}-output.wav"
            self._writer = AudioWriter(path, trainer.datamodule.sample_rate).__enter__()  # type: ignore[attr-defined]
        self._writer.write(outputs[0].cpu().numpy())
        if batch["last"]:
            self._writer.__exit__(None, None, None)
            self._writer = None


class _Excerpt(NamedTuple):
    """A recording's opening, [context + T] each."""

    name: str
    context: int
    source: Samples
    target: Samples
    output: Samples

    def heard(self) -> tuple[Samples, Samples, Samples]:
        """The same without the context."""
        return self.source[self.context :], self.target[self.context :], self.output[self.context :]

    def sounds(self) -> dict[str, Samples]:
        """By name, without the context."""
        _, target, output = self.heard()
        return {"output": output, "target": target, "residual": output - target}


def _excerpt(model: AudioModel, pair: Pair, context: int) -> _Excerpt:
    from klann_lightning.portrait import played

    frames = min(pair.frames, context + LONGEST_SECONDS * pair.sample_rate)
    source, target = (read_audio(path, 0, frames) for path in (pair.input, pair.target))
    return _Excerpt(pair.name, context, source, target, played(model, source))


def _log(log: WandbLog, folder: Path, stage: str, sample_rate: int) -> None:
    """What lies in the stage's folder."""
    for path in sorted(folder.glob("*.png")):
        log.log_image(f"{stage}/{path.stem}", [str(path)])
    for path in sorted(folder.glob("*.wav")):
        log.log_audio(f"{stage}/{path.stem}", [str(path)], sample_rate=[sample_rate])


def _figures(model: AudioModel, excerpt: _Excerpt, stage: str) -> dict[str, Any]:
    from klann_lightning.plots import response_figure, spectrogram_figure, waveform_figure

    title, rate = f"{excerpt.name}, {stage}", model.sample_rate
    _, target, output = excerpt.heard()
    figures = {
        "waveform": waveform_figure(target, output, rate, title),
        "spectrogram": spectrogram_figure(target, output, rate, title),
    }
    frequencies = torch.logspace(-1, torch.log10(torch.tensor(rate / 2.001)).item(), 500, dtype=torch.float64)
    responses = model.filter_responses(frequencies)
    if responses is not None:
        labels, magnitude_db = responses
        figures["filters"] = response_figure(frequencies.numpy(), magnitude_db.numpy(), labels, title)
    return figures


def _charts(model: AudioModel, excerpt: _Excerpt) -> dict[str, Any]:
    """What a report's page shows of a model, by name: Plotly's figures, which only W&B needs here."""
    from klann_lightning.charts import track_figure
    from klann_lightning.fidelity import esr_over_time
    from klann_lightning.portrait import of_inside, of_model, of_output
    from klann_lightning.reading import read_klann

    rate, (_, target, output) = model.sample_rate, excerpt.heard()
    esr_db = esr_over_time(output, target, rate, ESR_SECONDS)
    drawn, _ = of_model(model, excerpt.source)
    drawn |= of_output(*excerpt.heard(), rate)
    if isinstance(model, Klann):
        take = torch.from_numpy(excerpt.source), torch.from_numpy(excerpt.target)
        drawn |= of_inside(read_klann(model, [take], excerpt.context))
    track = track_figure(target, output, rate, esr_db, ESR_SECONDS)
    return {"track": track, **{name: chart.figure for name, chart in drawn.items()}}
