"""Checkpoints out of what the paper's authors' own code leaves of a training, `results/NAME`.

Their MODEL1 is ParallelKlann and their MODEL2 ParallelSeriesKlann, in the same raw parameters (Huhtala,
Juvela, Schlecht 2024, section II). They train on samples as they are, from zero state.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from klann_lightning.errors import CheckpointError, ConfigError
from klann_lightning.models.klann import Klann, ParallelKlann, ParallelSeriesKlann
from klann_lightning.training.checkpoints import load_plain, write_weights

PARAMETERS, WEIGHTS = "parameters.txt", "model.pth"
MIX = ("m_lp", "m_bp", "m_hp")  # as SvfControls.mix has them
LISTED = 3  # keys that a message names

_STAGE: dict[str, Any] = {
    **{"epochs": 1000, "patience": None, "start_from": "best", "optimizer": None, "feed": None},
    **{"lr": 1e-3, "warmup_steps": 0, "schedule": "constant", "final_lr": 1.0},
    **{"starts": 1, "start_epochs": 0, "relative": False},
}
RECIPE: dict[str, Any] = {  # as in sweeps/recipes/paper.yaml
    "train_path": "sampled",
    "normalise": False,
    "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"fused": True}},
    "stages": [
        {"name": "time", "weights": {"mse": 1.0}, **_STAGE},
        {"name": "spectral", "weights": {"mse": 1.0, "mr_stft": 0.001}, **_STAGE},
    ],
}


class Kind(NamedTuple):
    """One of their two classes."""

    name: str
    model: type[Klann]
    filters: str  # their name for the list of filters
    maps: str | None  # and for the list of maps between the filters


KINDS = {
    kind.name: kind
    for kind in (
        Kind("MODEL1", ParallelKlann, "filters", None),
        Kind("MODEL2", ParallelSeriesKlann, "filter", "linear"),
    )
}


class Results(NamedTuple):
    """A results folder in our terms."""

    model: type[Klann]
    init_args: dict[str, Any]
    weights: dict[str, Tensor]  # the model's state, float32

    def __str__(self) -> str:
        sizes = (name for name in ("hidden", "lift_dim", "mid_width") if name in self.init_args)
        return ", ".join([self.model.__name__, *(f"{name} {self.init_args[name]}" for name in sizes)])


def read_results(folder: Path, sample_rate: int = 44100) -> Results:
    """The model of a results folder; CheckpointError says what is wrong with the folder.

    `parameters.txt` tells the class and the widths of its layers; all other sizes are those of the weights in
    `model.pth`, of which only tensors are unpickled. Neither tells the sample rate, in Hz.
    """
    if sample_rate < 1:
        raise ConfigError(f"sample_rate must be at least 1 Hz, not {sample_rate}")
    if not folder.is_dir():
        raise CheckpointError(
            f"no such folder: {folder}. Name one that holds {PARAMETERS} and {WEIGHTS}, as results/NAME does."
        )
    kind, hidden = _read_parameters(folder / PARAMETERS)
    theirs, said = _read_weights(folder / WEIGHTS), f"a {kind.name} with layers {hidden}"
    if any(key.startswith("filters.") for key in theirs):  # in some versions of their code both classes' name
        kind = kind._replace(filters="filters")
    networks = [key for key in theirs if key.startswith("mlp")]
    _check_keys(folder, networks, _keys_of_networks(hidden).values(), said)
    lifted = theirs[f"mlp1.{2 * len(hidden)}.weight"]
    lift_dim = max(1, len(lifted)) if lifted.ndim else 1
    sources = _sources(kind, hidden, lift_dim)
    _check_keys(folder, theirs, (key for keys in sources.values() for key in keys), said)
    init_args: dict[str, Any] = {"hidden": hidden, "lift_dim": lift_dim}
    if kind.maps:  # a map's first layer is [2 mid_width, 2]; a single filter has no map before it
        first = theirs.get(f"{kind.maps}.0.0.weight", torch.ones(4))
        init_args["mid_width"] = max(1, first.numel() // 4)
    init_args |= {"sections": 1, "start": "paper", "low_hz": 0.5, "high_hz": 16000.0}
    init_args |= {"initial": "zero", "sample_rate": sample_rate}
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in kind.model(**init_args).state_dict().items()}
    weights = {ours: _joined(folder, theirs, keys, shapes[ours], said) for ours, keys in sources.items()}
    levels = {"input_level": torch.ones(()), "output_level": torch.ones(())}
    return Results(kind.model, init_args, levels | weights)


def write_checkpoint(results: Results, path: Path) -> None:
    """A checkpoint of them; as a whole or, by CheckpointError, not."""
    class_path = f"{results.model.__module__}.{results.model.__qualname__}"
    model = {"class_path": class_path, "init_args": results.init_args}
    weights = {f"model.{key}": value for key, value in results.weights.items()}
    write_weights(path, {"model": model, **RECIPE}, {"target_power": torch.ones(()), **weights})


def _read_parameters(path: Path) -> tuple[Kind, list[int]]:
    """Which class, and the widths of its lift's gated layers."""
    if not path.is_file():
        raise CheckpointError(
            f"no such file: {path}. Copy it from the training's folder, or write it: "
            "model_train: MODEL1 or MODEL2, and layers: [3,4,5] with its own widths, a line each."
        )
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    pairs = (line.partition(":") for line in text.splitlines())
    values = {name.strip().lower(): value.strip() for name, _, value in pairs}
    for name in ("model_train", "layers"):
        if not values.get(name):
            raise CheckpointError(f"{path} has no line {name!r}. Add it, as the training had it.")
    model = values["model_train"].strip("'\"")
    if model not in KINDS:
        raise CheckpointError(
            f"{path}: model_train is {model!r}; only {' and '.join(KINDS)} can be imported. "
            "Write the one that was trained."
        )
    layers = re.fullmatch(r"\[?\s*([1-9]\d{0,4}(?:\s*,\s*[1-9]\d{0,4})*)\s*,?\s*\]?", values["layers"])
    if layers is None:
        raise CheckpointError(
            f"{path}: layers is {values['layers']!r}, not a list of widths. Write it like layers: [3,4,5]."
        )
    return KINDS[model], [int(width) for width in layers[1].split(",")]


def _read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict as it is, float32, every number finite."""
    if not path.is_file():
        raise CheckpointError(f"no such file: {path}. Copy it from the training's folder.")
    mend = "Save model.state_dict() there by their code, or copy the file again."
    try:
        content = load_plain(path)
    except Exception as error:  # torch raises whatever the bytes lead it to
        raise CheckpointError(
            f"{path} is damaged or holds more than a state dict, as a pickled module does. {mend}"
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict. {mend}")
    for key, value in content.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise CheckpointError(f"{path}: {key} is not a tensor of real numbers. {mend}")
    weights = {str(key): value.detach().float() for key, value in content.items()}
    wrong = [key for key, value in weights.items() if not value.isfinite().all()]
    if wrong:
        raise CheckpointError(
            f"{path}: {_listed(wrong)} has values that are not finite: the training diverged, or the file is "
            "damaged. Take the model of another training, or copy the file again."
        )
    return weights


def _keys_of_networks(hidden: list[int]) -> dict[str, str]:
    """Their keys of the lift's and the down part's layers, by ours; at odd places stand their gates."""
    return {
        f"{ours}.{layer}.{part}": f"{theirs}.{2 * index}.{part}"
        for ours, theirs in (("lift", "mlp1"), ("down", "mlp2"))
        for index, layer in enumerate([*(f"gated.{index}" for index in range(len(hidden))), "last"])
        for part in ("weight", "bias")
    }


def _sources(kind: Kind, hidden: list[int], lift_dim: int) -> dict[str, list[str]]:
    """Of which of their tensors each of ours consists."""
    maps = {
        f"mids.{index}.{ours}.{part}": f"{kind.maps}.{index}.{theirs}.{part}"
        for index in range(lift_dim - 1 if kind.maps else 0)
        for ours, theirs in (("gated.0", 0), ("last", 2))
        for part in ("weight", "bias")
    }
    bank = {
        f"bank.{ours}": [f"{kind.filters}.{index}.{name}" for index in range(lift_dim) for name in theirs]
        for ours, theirs in (("cutoff", ("g",)), ("damping", ("R",)), ("mix", MIX))
    }
    return {**{ours: [key] for ours, key in (_keys_of_networks(hidden) | maps).items()}, **bank}


def _check_keys(folder: Path, present: Iterable[str], expected: Iterable[str], said: str) -> None:
    there, wanted = set(present), list(expected)
    missing = [key for key in wanted if key not in there]
    beside = sorted(there.difference(wanted))
    if missing or beside:
        wrong = [f"lacks {_listed(missing)}"] * bool(missing) + [f"has {_listed(beside)}"] * bool(beside)
        raise CheckpointError(
            f"{folder / WEIGHTS} {' and '.join(wrong)}, unlike {said}. If these are not what was trained, "
            f"mend {PARAMETERS}; else copy both files again, from one training."
        )


def _joined(
    folder: Path, theirs: Mapping[str, Tensor], keys: list[str], shape: torch.Size, said: str
) -> Tensor:
    """One of our tensors, of one of theirs with the same shape, or of many single numbers."""
    alone = len(keys) == 1 and shape.numel() != 1
    for key in keys:
        value = theirs[key]
        if value.shape != shape if alone else value.numel() != 1:
            raise CheckpointError(
                f"{folder / WEIGHTS}: {key} has shape {list(value.shape)}, in {said} it has "
                f"{list(shape) if alone else 'one element'}. If these are not what was trained, mend "
                f"{PARAMETERS}; else copy both files again, from one training."
            )
    return torch.cat([theirs[key].reshape(-1) for key in keys]).view(shape)


def _listed(keys: list[str]) -> str:
    more = f" and {len(keys) - LISTED} more" * (len(keys) > LISTED)
    return ", ".join(keys[:LISTED]) + more
