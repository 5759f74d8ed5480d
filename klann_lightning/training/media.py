"""What a run leaves to look at and listen to: figures and audio, in its folder and in W&B."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor

from klann_lightning.data.audio import AudioWriter, read_audio, write_audio
from klann_lightning.data.pairs import Pair
from klann_lightning.errors import PairError
from klann_lightning.models.base import AudioModel
from klann_lightning.training.module import EffectModule
from klann_lightning.training.stages import StageListener

LONGEST_SECONDS = 30  # of a recording that is drawn and played
BLOCK = 2**16


class StageMedia(StageListener):
    """At every stage's end: the first validation file through the model, as figures and audio.

    In the run's folder: `<stage>/{waveform,spectrogram,filters}.png`, `<stage>/{output,target,residual}.wav`.
    """

    @rank_zero_only
    def on_stage_end(self, trainer: pl.Trainer, module: EffectModule, name: str) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir) / name
        data = trainer.datamodule  # type: ignore[attr-defined]
        pair = data.pairs["val"][0]
        try:
            sounds = _sounds(module.model, pair, data.context)
            for part, samples in sounds.items():
                write_audio(folder / f"{part}.wav", samples, pair.sample_rate)
            for part, figure in _figures(module.model, pair, sounds, name).items():
                figure.savefig(folder / f"{part}.png", dpi=100)
        except (PairError, OSError) as error:
            rank_zero_info(f"no figures and audio of {name}: {str(error).rstrip('.')}. The training goes on.")
            return
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                for path in sorted(folder.glob("*.png")):
                    logger.log_image(f"{name}/{path.stem}", [str(path)])
                for path in sorted(folder.glob("*.wav")):
                    logger.log_audio(f"{name}/{path.stem}", [str(path)], sample_rate=[pair.sample_rate])


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


def _sounds(model: AudioModel, pair: Pair, context: int) -> dict[str, Any]:
    """Output, target and residual [T] of a recording's opening, after the context."""
    frames = min(pair.frames, context + LONGEST_SECONDS * pair.sample_rate)
    source = torch.from_numpy(read_audio(pair.input, 0, frames)).to(model.input_level)
    heard = torch.cat(list(model.play(source[None].split(BLOCK, -1))), -1)[0].cpu().numpy()[context:]
    target = read_audio(pair.target, context, frames - context)
    return {"output": heard, "target": target, "residual": heard - target}


def _figures(model: AudioModel, pair: Pair, sounds: dict[str, Any], stage: str) -> dict[str, Any]:
    from klann_lightning.plots import response_figure, spectrogram_figure, waveform_figure

    title, rate = f"{pair.name}, {stage}", pair.sample_rate
    figures = {
        "waveform": waveform_figure(sounds["target"], sounds["output"], rate, title),
        "spectrogram": spectrogram_figure(sounds["target"], sounds["output"], rate, title),
    }
    frequencies = torch.logspace(-1, torch.log10(torch.tensor(rate / 2.001)).item(), 500, dtype=torch.float64)
    responses = model.filter_responses(frequencies.to(model.input_level.device))
    if responses is not None:
        labels, magnitude_db = responses
        figures["filters"] = response_figure(frequencies.numpy(), magnitude_db.cpu().numpy(), labels, title)
    return figures
