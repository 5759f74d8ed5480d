"""A trained KLANN as C++: the header that plays it, the model as another header, and examples to build.

In the folder that is written: `klann.hpp` (the player; nothing of the model in it), `model.hpp` (the model,
baked in), `model.json` (the same as a document), and `CMakeLists.txt` with what it builds: `filter_wav`,
which plays a wav file, and a plug-in.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from klann_lightning.errors import CheckpointError
from klann_lightning.export.document import short_scale, width_of, write_document, writing
from klann_lightning.files import write_whole

EXAMPLES = ("klann.hpp", "filter_wav.cpp", "plugin.cpp", "CMakeLists.txt")
MODEL, DOCUMENT = "model.hpp", "model.json"


class Coding(NamedTuple):
    """How weights lie in memory."""

    name: str  # of klann::Coding
    kind: str
    written: Callable[[float, float], str]  # of a weight and its operation's scale


CODINGS = {
    "float32": Coding("floats", "float", lambda value, scale: f"{value!r}F"),
    "float16": Coding("halves", "std::uint16_t", lambda value, scale: str(np.float16(value).view(np.uint16))),
    "int16": Coding("shorts", "std::int16_t", lambda value, scale: str(round(value / scale))),
}


def write_cpp(folder: Path, content: Mapping[str, Any]) -> None:
    """Everything of a document (see `document`) into a folder; CheckpointError where it cannot be written."""
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file. Name a folder for the C++ files.")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in EXAMPLES:
            with as_file(files("klann_lightning") / "runtime" / name) as source:
                shutil.copyfile(source, folder / name)
        write_whole(folder / MODEL, baked(content))
    write_document(folder / DOCUMENT, content)


def baked(content: Mapping[str, Any]) -> str:
    """A header with all of the model in constants, which costs no time to load."""
    operations: list[str] = []
    inputs: list[int] = []
    weights: list[str] = []
    scales: list[str] = []
    planes = 1
    coding, kind, written = CODINGS[content["precision"]]
    for one in content["operations"]:
        of_filter = one["kind"] == "filter"
        rows = [] if of_filter else one["weight"]
        weight = one["filter"] if of_filter else len(weights)
        bias = 0 if of_filter else weight + sum(map(len, rows))
        width = width_of(one)
        numbers = len(one["inputs"]), width, planes, len(inputs), weight, bias
        operations.append(f"{{klann::Kind::{one['kind']}, {', '.join(map(str, numbers))}}}")
        scale = 1.0 if of_filter else short_scale(one)
        scales.append(f"{scale!r}F")
        inputs += one["inputs"]
        weights += [written(value, scale) for row in [*rows, one.get("bias", [])] for value in row]
        planes += width
    filters = [
        _braced([one["cutoff_hz"], one["damping"], *one["mix"], *one["state"]]) for one in content["filters"]
    ]
    about = f"{content['system']['name']}, {content['sample_rate']} Hz, {content['written_by']}"
    levels = f"{content['input_level']!r}, {content['output_level']!r}"
    counts = ", ".join(str(len(part)) for part in (operations, inputs, weights, filters))
    return f"""// A model: {about}. `klann::Processor<float> player(model::MODEL);` plays it.
#pragma once

#include "klann.hpp"

namespace model {{

inline constexpr klann::Operation OPERATIONS[] = {_listed(operations)};
inline constexpr std::int32_t INPUTS[] = {_listed(inputs)};
inline constexpr {kind} WEIGHTS[] = {_listed(weights)};
inline constexpr float SCALES[] = {_listed(scales)};
inline constexpr klann::Filter FILTERS[] = {_listed(filters)};
inline constexpr klann::Model MODEL = {{
    OPERATIONS, INPUTS, WEIGHTS, klann::Coding::{coding}, SCALES, FILTERS,
    {counts}, {planes}, {float(content["sample_rate"])!r}, {levels}}};

}}  // namespace model
"""


def _braced(numbers: Sequence[float]) -> str:
    return "{" + ", ".join(map(repr, numbers)) + "}"


def _listed(items: Iterable[object]) -> str:
    """As many on a line as have room.

    >>> print(_listed([1, 2]))
    {
        1, 2,
    }
    """
    lines, line = [], ""
    for item in items:
        if len(line) + len(str(item)) > 100:
            lines.append(line)
            line = ""
        line += f" {item},"
    return "{\n" + "".join(f"   {one}\n" for one in [*lines, line] if one) + "}"
