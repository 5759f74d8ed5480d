"""Play a recording through a trained model: in step with it, or with targets as they were recorded."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from klann_lightning.data.audio import AudioWriter, audio_info, iter_audio
from klann_lightning.doctor.mend import lay_back
from klann_lightning.doctor.recipe import WHOLE, Recipe, Recipes
from klann_lightning.errors import ConfigError, PairError
from klann_lightning.export.document import is_document, model_from, read_document
from klann_lightning.models.base import AudioModel
from klann_lightning.models.oversampled import oversampled
from klann_lightning.streaming import Samples, StreamingRunner
from klann_lightning.training.checkpoints import mended_as, model_of, read_checkpoint


def play(
    checkpoint: Path, source: Path, output: Path, block: int, as_recorded: bool, oversampling: int = 1
) -> str:
    """Write what the model makes of a recording, given `block` samples at once; what is to be known of it.

    Raises PairError for a recording of another rate, ConfigError where `as_recorded` cannot be and for an
    oversampling that is not 1, 2 or 4.
    """
    model, recipes = trained(checkpoint)
    rate, frames, _ = audio_info(source)
    if rate != model.sample_rate:
        raise PairError(
            f"{source} is {rate} Hz, the model of {checkpoint} was trained at {model.sample_rate} Hz. "
            f"Resample {source.name} to {model.sample_rate} Hz and run again."
        )
    recipe = _recipe_for(source, frames, recipes) if as_recorded else None
    runner = StreamingRunner(oversampled(model, oversampling))
    blocks = _aligned(runner, iter_audio(source, block))
    with AudioWriter(output, recipe.target_rate if recipe else rate) as writer:
        for samples in lay_back(blocks, frames, recipe) if recipe else blocks:
            writer.write(samples)
    speed = f"{output}: {runner.real_time_factor:.0f} times real time, in blocks of {block} samples."
    moved = [one for own in recipes.values() for one in own.values() if not one.idle]
    if not moved or as_recorded:
        return speed
    delays = sorted(one.delay for one in moved)
    by = f"{delays[0]:.2f}" if delays[-1] - delays[0] < WHOLE else f"{delays[0]:.2f} to {delays[-1]:.2f}"
    turned = ", and turned over" if any(one.polarity < 0 for one in moved) else ""
    return (
        f"{speed} It is in step with {source}. The model's targets had been mended, by {by} samples{turned}: "
        "--as_recorded plays as they were recorded."
    )


def trained(path: Path) -> tuple[AudioModel, Recipes]:
    """The model of a checkpoint or of an exported document, and how its recordings were mended."""
    if is_document(path):
        return model_from(read_document(path)), {}
    content = read_checkpoint(path)
    return model_of(path, content), mended_as(path, content)


def _aligned(runner: StreamingRunner, blocks: Iterable[Samples]) -> Iterator[Samples]:
    """The output of all blocks, without the runner's latency."""
    late = runner.latency
    for block in blocks:
        played = runner.process(block)
        yield played[late:]
        late = max(late - len(played), 0)
    yield runner.finish()[late:]


def _recipe_for(source: Path, frames: int, recipes: Recipes) -> Recipe:
    """The recording's own, by its split, name and length; for another one, the delay that all share."""
    if not recipes:
        raise ConfigError(
            "the model's recordings were not mended while it was trained (--data.align auto), so it plays as "
            "they were recorded already. Leave out --as_recorded."
        )
    name, split = source.stem.removesuffix("-input"), source.resolve().parent.name
    named = {place: own[name] for place, own in recipes.items() if name in own}
    own = [one for one in named.values() if one.start + one.frames <= frames]
    if split in named and named[split] in own:
        return named[split]
    everyone = [one for each in recipes.values() for one in each.values()]
    first = everyone[0]
    for candidates in (own, everyone):
        if candidates and all(_alike(candidates[0], one) for one in candidates):
            first = candidates[0]
            break
    else:
        names = ", ".join(f"{place}/{name}" for place, each in recipes.items() for name in each)
        raise ConfigError(
            f"the model's recordings ({names}) were not all mended alike, and {source} is none of them by "
            "its folder and name. Play one of these, or leave out --as_recorded."
        )
    return replace(first, target_rate=first.sample_rate, start=0, frames=frames, drift_ppm=0.0, jumps=())


def _alike(one: Recipe, other: Recipe) -> bool:
    near = abs(one.delay - other.delay) < WHOLE
    return near and (one.polarity, one.sample_rate) == (other.polarity, other.sample_rate)
