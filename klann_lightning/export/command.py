"""The `export` command: a trained model that runs without us, tried against the model that it is made of."""

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from klann_lightning.errors import CheckpointError, ConfigError
from klann_lightning.export.document import document, model_from, read_document, write_document, writing
from klann_lightning.export.rates import other_rate, rate_error_db
from klann_lightning.files import replacing
from klann_lightning.models.base import AudioModel
from klann_lightning.training.checkpoints import model_of, read_checkpoint

PARITY_DB = -100.0  # of what is exported against the model in 64 bit
TRIED = 44100  # samples of noise that an export is tried on, beside the snapshot


class Made(NamedTuple):
    """What is exported."""

    model: AudioModel
    training: Mapping[str, Any]
    precision: str

    def document(self) -> dict[str, Any]:
        return document(self.model, self.training, self.precision)


class Exported(NamedTuple):
    """What was written, and how far its samples are from the model's."""

    what: str
    error_db: float | None  # None where nothing here can play it
    beside: str = ""  # what else is to be known


def run(checkpoint: Path, out: Path, kind: str, precision: str) -> str:
    """Write a checkpoint's model in one of FORMATS; what was written, in words.

    Raises ConfigError for a format or a model that cannot be, CheckpointError for files that cannot.
    """
    if kind not in FORMATS:
        raise ConfigError(f"there is no format {kind!r}; there are {', '.join(FORMATS)}.")
    content = read_checkpoint(checkpoint)
    model = model_of(checkpoint, content)
    made = Made(model, _training(checkpoint, content), precision)
    cost = ""
    if precision != "float32":
        made = made._replace(model=model_from(made.document()))
        cost = f"; its weights in {precision} cost {_error_db(model, _player(made.model)):.0f} dB of error"
    exported = FORMATS[kind](made, out)
    if exported.error_db is None:
        return exported.what + cost + exported.beside
    if exported.error_db > PARITY_DB:
        raise CheckpointError(
            f"{exported.what}, but its samples are off by {exported.error_db:.1f} dB: do not use it. "
            "Export another checkpoint of the run."
        )
    return (
        f"{exported.what}; its samples are the model's to {exported.error_db:.0f} dB{cost}{exported.beside}"
    )


def _json(made: Made, out: Path) -> Exported:
    content = made.document()
    write_document(out, content)
    error_db = _error_db(made.model, _player(model_from(read_document(out))))
    return Exported(str(out), error_db, _elsewhere(content))


def _cpp(made: Made, out: Path) -> Exported:
    from klann_lightning.export.cpp import write_cpp

    content = made.document()
    write_cpp(out, content)
    build = f"cmake -S {out} -B {out / 'build'} && cmake --build {out / 'build'}"
    check = f"{out / 'build' / 'filter_wav'} --check --model {out / 'model.json'}"
    return Exported(
        f"{out}: klann.hpp, model.hpp and examples. Build them: {build}; try them on a snapshot: {check}",
        None,
        _elsewhere(content),
    )


def _elsewhere(content: Mapping[str, Any]) -> str:
    """How far off the runtime is at another rate, which it makes the filters for."""
    rate = other_rate(content["sample_rate"])
    return f"; at {rate} Hz it is off by {rate_error_db(content, rate):.0f} dB on pink noise"


def _onnx(made: Made, out: Path) -> Exported:
    try:
        import onnxruntime  # noqa: F401, nothing is written that cannot be tried

        from klann_lightning.export.graph import first_state, step_graph, whole_graph
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is missing. Install it: pip install 'klann_lightning[onnx]'"
        ) from error
    content = made.document()
    whole = out.with_name(f"{out.stem}-whole.onnx")
    graphs = {out: step_graph(content), whole: whole_graph(content)}
    for path, one in graphs.items():
        _write(path, one.SerializeToString())
    error_db = max(_error_db(made.model, play) for play in _onnx_players(out, whole, first_state(content)))
    return Exported(f"{out}, block by block, and {whole}, all at once", error_db)


def _onnx_players(step: Path, whole: Path, state: NDArray[np.float64]) -> list[Callable[[Tensor], Tensor]]:
    import onnxruntime

    sessions = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in (step, whole)
    ]

    def in_steps(x: Tensor) -> Tensor:
        at, outputs = state, []
        for size in (1, 63, 64, 65, 1000):
            y, at = sessions[0].run(None, {"x": x[None, :size].numpy(), "state": at})
            outputs.append(y[0])
            x = x[size:]
        y, _ = sessions[0].run(None, {"x": x[None].numpy(), "state": at})
        return torch.from_numpy(np.concatenate([*outputs, y[0]]))

    return [in_steps, lambda x: torch.from_numpy(sessions[1].run(None, {"x": x[None].numpy()})[0][0])]


def _torch(made: Made, out: Path) -> Exported:
    from klann_lightning.export.program import export_program, player

    if out.suffix != ".pt2":
        raise ConfigError(
            f"torch.export.load reads only files that end in .pt2: name it {out.with_suffix('.pt2')}."
        )
    _write(out, export_program(made.model))
    return Exported(
        f"{out}, for torch.export.load", _error_db(made.model, player(out, made.model.init_state(1)))
    )


FORMATS: dict[str, Callable[[Made, Path], Exported]] = {
    "json": _json,
    "cpp": _cpp,
    "onnx": _onnx,
    "torch": _torch,
}


@torch.no_grad()
def _error_db(model: AudioModel, play: Callable[[Tensor], Tensor]) -> float:
    """Of noise, against the model in 64 bit; 0 dB is as much error as there is sound."""
    noise = torch.rand(TRIED, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = deepcopy(model).double().play_whole(noise.double())
    played = play(noise)
    exact = exact[: len(played)]  # a program's blocks are whole
    return float(10 * torch.log10((played - exact).square().sum() / exact.square().sum() + 1e-30))


def _player(model: AudioModel) -> Callable[[Tensor], Tensor]:
    exact = deepcopy(model).double()
    return lambda x: exact.play_whole(x.double())


def _write(path: Path, content: bytes) -> None:
    with writing(path), replacing(path) as aside:
        aside.write_bytes(content)


def _training(checkpoint: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of how it came about."""
    stages = content["hyper_parameters"].get("stages", [])
    return {
        "checkpoint": checkpoint.name,
        "epoch": content.get("epoch"),
        "steps": content.get("global_step"),
        "stages": [{"name": stage.get("name"), "weights": stage.get("weights")} for stage in stages],
        "scores": _scores(content),
    }


def _scores(content: Mapping[str, Any]) -> dict[str, float]:
    """Of val, at the best of the last stage, where the checkpoint is one of a fit."""
    stage = content.get("callbacks", {}).get("StageSwitch", {})
    scores = {"val/loss": stage.get("best_score"), **stage.get("best_scores", {})}
    return {
        name: float(value) for name, value in scores.items() if value is not None and math.isfinite(value)
    }
