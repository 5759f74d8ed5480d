"""Play a recording through a trained model: in step with it, or with targets as they were recorded."""

from dataclasses import replace
from pathlib import Path

import torch

from klann_lightning.data.audio import AudioWriter, audio_info, iter_audio
from klann_lightning.doctor.mend import lay_back
from klann_lightning.doctor.recipe import Recipe, Recipes
from klann_lightning.errors import ConfigError, PairError
from klann_lightning.training.checkpoints import load_model, mended_as, read_checkpoint


def play(checkpoint: Path, source: Path, output: Path, block: int, as_recorded: bool) -> str:
    """Write what the model makes of a recording, given `block` samples at once; what is to be known of it.

    Raises PairError for a recording of another rate, ConfigError where `as_recorded` cannot be.
    """
    model = load_model(checkpoint)
    rate, frames, _ = audio_info(source)
    if rate != model.sample_rate:
        raise PairError(
            f"{source} is {rate} Hz, the model of {checkpoint} was trained at {model.sample_rate} Hz. "
            f"Resample {source.name} to {model.sample_rate} Hz and run again."
        )
    recipes = mended_as(read_checkpoint(checkpoint))
    recipe = _recipe_for(source, frames, recipes) if as_recorded else None
    played = model.play(torch.from_numpy(samples)[None] for samples in iter_audio(source, block))
    blocks = (part[0].numpy() for part in played)
    with AudioWriter(output, recipe.target_rate if recipe else rate) as writer:
        for samples in lay_back(blocks, frames, recipe) if recipe else blocks:
            writer.write(samples)
    moved = [one for own in recipes.values() for one in own.values() if not one.idle]
    if not moved or as_recorded:
        return ""
    turned = ", and turned over" if moved[0].polarity < 0 else ""
    return (
        f"{output} is in step with {source}. The model's targets had been mended, by {moved[0].delay:.2f} "
        f"samples{turned}: --as_recorded plays as they were recorded."
    )


def _recipe_for(source: Path, frames: int, recipes: Recipes) -> Recipe:
    """The recording's own, by its name and length; for another one, the delay and polarity that all share."""
    all_of_them = [(name, one) for own in recipes.values() for name, one in own.items()]
    if not all_of_them:
        raise ConfigError(
            "the model's recordings were not mended while it was trained (--data.align auto), so it plays as "
            "they were recorded already. Leave out --as_recorded."
        )
    for name, one in all_of_them:
        whole = round(frames * one.sample_rate / one.input_rate)
        if name == source.stem.removesuffix("-input") and one.start + one.frames <= whole:
            return one
    shared = {(one.delay, one.polarity, one.sample_rate) for _, one in all_of_them}
    if len(shared) > 1:
        names = ", ".join(name for name, _ in all_of_them)
        raise ConfigError(
            f"the model's recordings ({names}) were not all mended alike, and {source.name} is none of them. "
            "Play one of these, or leave out --as_recorded."
        )
    one = all_of_them[0][1]
    return replace(one, target_rate=one.sample_rate, start=0, frames=frames, drift_ppm=0.0, jumps=())
