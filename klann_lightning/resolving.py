"""Complete configurations: what `fit` makes of some words, and the recordings that one names."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from klann_lightning.data.datamodule import PairedDataModule
from klann_lightning.errors import ConfigError
from klann_lightning.experiment import Experiment
from klann_lightning.training.checkpoints import mended_as, read_checkpoint

OF_ONE_RUN = ("config", "ckpt_path", "weights_only")


def resolve(words: Sequence[str]) -> dict[str, Any]:
    """What `fit` would have from these words of a command line, without what is of a single run.

    Raises ConfigError with what fit would say against them.
    """
    printed, refused = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(refused):
            Experiment(["fit", *words, "--print_config"])
    except SystemExit as done:
        if done.code:
            raise ConfigError(refused.getvalue().strip().removeprefix("error: ")) from done
    config: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return {name: value for name, value in config.items() if name not in OF_ONE_RUN}


def recordings_of(config: Mapping[str, Any], checkpoint: Path | None = None) -> PairedDataModule:
    """The recordings of a complete configuration, not yet looked at; mended as a checkpoint's, if at all."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PairedDataModule, "data")
    data: PairedDataModule = parser.instantiate(parser.parse_object({"data": config["data"]}))["data"]
    if checkpoint:
        data.recipes = mended_as(checkpoint, read_checkpoint(checkpoint))
    return data
