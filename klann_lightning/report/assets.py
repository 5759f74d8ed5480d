"""The files beside a report's page. Each is loaded when it is needed, from disk as from a web host.

From disk a browser lets a page read nothing but scripts, pictures and style sheets: so figures, sounds for
the player, models and what plays them are scripts that hand their content to `klann.figure`, `klann.sound`,
`klann.model` and `klann.runtime`.
"""

import base64
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from klann_lightning.data.audio import write_audio
from klann_lightning.fidelity import Signal
from klann_lightning.files import write_whole

SOUNDS, FIGURES, PICTURES, MODELS = "audio", "figures", "spectra", "models"


def write_sound(out: Path, key: str, samples: Signal, sample_rate: int) -> None:
    """`audio/<key>.flac`, 24 bit, and the same bytes in `audio/<key>.js`. Samples [T], within -1 to 1."""
    path = out / SOUNDS / f"{key}.flac"
    write_audio(path, samples, sample_rate)
    coded = base64.b64encode(path.read_bytes()).decode()
    write_whole(path.with_suffix(".js"), f"klann.sound({json.dumps(key)}, {json.dumps(coded)});\n")


def write_figure(out: Path, key: str, figure: go.Figure) -> None:
    """`figures/<key>.js`."""
    write_whole(out / FIGURES / f"{key}.js", f"klann.figure({json.dumps(key)}, {figure.to_json()});\n")


def write_model(out: Path, key: str, document: Mapping[str, Any]) -> None:
    """`models/<key>.js`: all of an exported document that playing needs."""
    told = {name: value for name, value in document.items() if name not in ("snapshot", "training")}
    write_whole(out / MODELS / f"{key}.js", f"klann.model({json.dumps(key)}, {json.dumps(told)});\n")


def write_runtime(path: Path) -> None:
    """The player of models, as WebAssembly, in a script."""
    coded = base64.b64encode((files("klann_lightning") / "runtime" / "klann.wasm").read_bytes()).decode()
    write_whole(path, f"klann.runtime({json.dumps(coded)});\n")
