"""A trained KLANN as one JSON document, without Python and without our classes: `runtime/klann.schema.json`.

A document lists what happens to a sample: layers and filters on planes, of which plane 0 is the input and the
last one written is the output. Filters are kept by their analogue prototypes, so that they can be made for
any sample rate. Numbers have all their digits: what is read back gives the checkpoint's samples.
"""

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from klann_lightning import __version__
from klann_lightning.dsp.svf import cutoff_hz
from klann_lightning.errors import CheckpointError, ConfigError
from klann_lightning.files import write_whole
from klann_lightning.models.base import AudioModel
from klann_lightning.models.klann import Klann, ParallelKlann, ParallelSeriesKlann
from klann_lightning.models.stacked import StackedKlann

FORMAT, VERSION = "klann", 1
SYSTEMS = {one.__name__: one for one in (ParallelKlann, ParallelSeriesKlann, StackedKlann)}
PRECISIONS = ("float32", "float16", "int16")
SNAPSHOT = 4096  # samples
SNAPSHOT_SEED = 0


def width_of(operation: Mapping[str, Any]) -> int:
    """How many planes an operation writes."""
    if operation["kind"] == "filter":
        return 1
    return len(operation["bias"]) // (2 if operation["kind"] == "gated" else 1)


class _Listing:
    """What `Klann.write` writes on, as plain data."""

    def __init__(self) -> None:
        self.operations: list[dict[str, Any]] = []
        self.layers: list[nn.Linear] = []
        self.planes = 1

    def layer(self, inputs: Sequence[int], linear: nn.Linear, gated: bool) -> list[int]:
        self.layers.append(linear)
        weight, bias = linear.weight.detach(), linear.bias.detach()
        one = {"kind": "gated" if gated else "linear", "weight": weight.tolist(), "bias": bias.tolist()}
        return self._write(one, inputs)

    def filter(self, plane: int, index: int) -> int:
        return self._write({"kind": "filter", "filter": index}, [plane])[0]

    def _write(self, operation: dict[str, Any], inputs: Sequence[int]) -> list[int]:
        self.operations.append({**operation, "inputs": list(inputs)})
        width = width_of(operation)
        self.planes += width
        return list(range(self.planes - width, self.planes))


@torch.no_grad()
def document(
    model: AudioModel, training: Mapping[str, Any] | None = None, precision: str = "float32"
) -> dict[str, Any]:
    """All of a model as plain data, its layers' weights rounded; `training` is kept as it is.

    ConfigError for what is no KLANN, and for weights that `precision`, one of PRECISIONS, cannot hold.
    """
    if not isinstance(model, Klann) or type(model).__name__ not in SYSTEMS:
        raise ConfigError(
            f"a {type(model).__name__} is not made of layers and filters: only {', '.join(SYSTEMS)} can be "
            "written as JSON, C++ or ONNX. --format torch takes some of the others."
        )
    if precision not in PRECISIONS:
        raise ConfigError(f"there is no precision {precision!r}; there are {', '.join(PRECISIONS)}.")
    if precision != "float32":
        model = _rounded(model, precision)
    listing = _Listing()
    model.write(listing)
    exact = copy.deepcopy(model).double()
    controls = model.bank.controls()
    (state,) = exact.init_state(1)
    told = {
        "cutoff_hz": cutoff_hz(controls, model.sample_rate),
        "damping": controls.r,
        "mix": controls.mix,
        "state": state[0],
    }
    columns = [part.flatten(0, 1).tolist() for part in told.values()]
    return {
        "format": FORMAT,
        "version": VERSION,
        "written_by": f"klann_lightning {__version__}",
        "sample_rate": model.sample_rate,
        "input_level": float(model.input_level),
        "output_level": float(model.output_level),
        "system": {"name": type(model).__name__, **_sizes(model), "initial": model.initial},
        "precision": precision,
        "operations": listing.operations,
        "filters": [dict(zip(told, values, strict=True)) for values in zip(*columns, strict=True)],
        "training": dict(training or {}),
        "snapshot": _snapshot(exact),
    }


def short_scale(operation: Mapping[str, Any]) -> float:
    """The power of 2 of which an operation's weights are multiples, as 16-bit integers."""
    largest = max(abs(value) for row in [*operation["weight"], operation["bias"]] for value in row)
    return 2.0 ** math.ceil(math.log2(largest / 32767)) if largest > 0 else 1.0


def _rounded(model: Klann, precision: str) -> Klann:
    """A copy with the weights of its layers in 16 bits; the filters stay as they are."""
    rounded, listing = copy.deepcopy(model), _Listing()
    rounded.write(listing)
    for layer, one in zip(listing.layers, (o for o in listing.operations if "weight" in o), strict=True):
        scale = short_scale(one)
        for part in (layer.weight, layer.bias):
            part.copy_(part.half() if precision == "float16" else (part / scale).round() * scale)
            if not part.isfinite().all():
                raise ConfigError("a weight is beyond 65504, which float16 cannot hold. Take int16.")
    return rounded


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """CheckpointError where something cannot be written there."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror}. Check the folder and the disk."
        ) from error


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """A line for each operation and each filter."""
    lines = []
    for name, value in content.items():
        if isinstance(value, list):
            rows = ",\n".join(f"    {json.dumps(one)}" for one in value)
            lines.append(f"  {json.dumps(name)}: [\n{rows}\n  ]")
        else:
            lines.append(f"  {json.dumps(name)}: {json.dumps(value)}")
    with writing(path):
        write_whole(path, "{\n" + ",\n".join(lines) + "\n}\n")


def is_document(path: Path) -> bool:
    """Whether a file begins as documents do, and checkpoints do not."""
    try:
        with path.open("rb") as file:
            return file.read(64).lstrip().startswith(b"{")
    except OSError:
        return False


def read_document(path: Path) -> dict[str, Any]:
    """A document that its schema allows; CheckpointError says what is wrong with it."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}. Check its name and its folder."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON, or cut off: {error}. Export the model again.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is no model: its format is not {FORMAT!r}. Name what export has written."
        )
    if content.get("version") != VERSION:
        raise CheckpointError(
            f"{path} has version {content.get('version')!r} of the format; this is klann_lightning "
            f"{__version__}, which reads version {VERSION}. Install what wrote it, "
            f"{content.get('written_by')!r}, or later."
        )
    if fault := best_match(Draft202012Validator(schema()).iter_errors(content)):
        place = "/".join(map(str, fault.absolute_path))
        raise CheckpointError(
            f"{path} is damaged at {place or 'its top'}: {fault.message[:200]}. Export it again."
        )
    return content


def schema() -> dict[str, Any]:
    """The JSON Schema of documents."""
    return json.loads(
        (files("klann_lightning") / "runtime" / "klann.schema.json").read_text(encoding="utf-8")
    )


@torch.no_grad()
def model_from(content: Mapping[str, Any]) -> Klann:
    """The model of a document that its schema allows, ready to play; or CheckpointError."""
    sizes = dict(content["system"])
    system = SYSTEMS[sizes.pop("name")]
    try:
        model = system(**sizes, sample_rate=content["sample_rate"])
        listing = _Listing()
        model.write(listing)
        _fill(model, listing, content)
    except (ConfigError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"the document does not hold the {system.__name__} that it says: {error}."
        ) from error
    return model.eval()


def _fill(model: Klann, listing: _Listing, content: Mapping[str, Any]) -> None:
    wires = [
        [(one["kind"], one["inputs"]) for one in each] for each in (listing.operations, content["operations"])
    ]
    if wires[0] != wires[1]:
        raise ValueError("its operations are those of another")
    given = [one for one in content["operations"] if one["kind"] != "filter"]
    for layer, one in zip(listing.layers, given, strict=True):
        layer.weight.copy_(torch.tensor(one["weight"]))
        layer.bias.copy_(torch.tensor(one["bias"]))
    told = {
        name: torch.tensor([one[name] for one in content["filters"]], dtype=torch.float64)
        for name in ("cutoff_hz", "damping", "mix")
    }
    bank = model.bank
    share = told["cutoff_hz"] / (content["sample_rate"] / 2)
    bank.cutoff.copy_(torch.logit(share).view_as(bank.cutoff))
    bank.damping.copy_(_raw_damping(told["damping"]).view_as(bank.damping))
    bank.mix.copy_(told["mix"].view_as(bank.mix))
    model.set_levels(content["input_level"], content["output_level"])


def _raw_damping(damping: Tensor) -> Tensor:
    """The inverse of softplus."""
    return damping + torch.log(-torch.expm1(-damping))


def _sizes(model: Klann) -> dict[str, Any]:
    """The arguments that make a model of these sizes."""
    lift: Any = model.lift
    sizes: dict[str, Any] = {
        "hidden": [layer.out_features // 2 for layer in lift.gated],
        "lift_dim": lift.last.out_features,
        "sections": model.bank.cutoff.shape[1],
    }
    maps: Any = ()
    if isinstance(model, ParallelSeriesKlann):
        maps = model.mids
    if isinstance(model, StackedKlann):
        maps = model.maps
        sizes["banks"] = len(maps) + 1
    if not isinstance(model, ParallelKlann):
        sizes["mid_width"] = maps[0].last.in_features if len(maps) else 1
    return sizes


def _snapshot(exact: Klann) -> dict[str, list[float]]:
    """Noise that fades in and out, in 32 bit, and what a model in 64 bit makes of it."""
    rng = np.random.default_rng(SNAPSHOT_SEED)
    noise = rng.uniform(-1, 1, SNAPSHOT) * np.sin(np.linspace(0, np.pi, SNAPSHOT)) ** 2
    x = torch.from_numpy(noise.astype(np.float32))
    y = exact.play_whole(x.double())
    return {"input": x.tolist(), "output": y.tolist()}
