"""How large the model of a configuration is, before it is trained."""

from typing import Any, NamedTuple

from jsonargparse import ArgumentError, ArgumentParser

from klann_lightning.errors import ConfigError
from klann_lightning.models.base import AudioModel


class Size(NamedTuple):
    """Of a model."""

    cost: int  # multiply-adds per sample of its streaming form
    parameters: int  # trainable numbers


def model_size(experiment: dict[str, Any]) -> Size:
    """The size of the model that a complete configuration trains; ConfigError if there is none."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--model", type=AudioModel, required=True)
    config = experiment["model"]["model"]
    arguments = {**(config.get("init_args") or {}), "sample_rate": experiment["data"]["sample_rate"]}
    try:
        parsed = parser.parse_object({"model": {**config, "init_args": arguments}})
        model = parser.instantiate(parsed)["model"]
    except (ArgumentError, ValueError) as error:
        raise ConfigError(" ".join(str(error).split())) from error
    return Size(model.multiply_adds(), model.parameter_count())
