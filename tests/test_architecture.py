"""The house rules of the layout: who may import whom, which library has which door."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "klann_lightning"
# From the foundation up: each file imports only files that stand before it.
ORDER = [
    "errors",
    "units",
    "files",
    "configs",
    "handshake",
    "manners",
    "shipped",
    "runs",
    "dsp.svf",
    "dsp.filtering",
    "dsp.poles",
    "native.build",
    "native.calls",
    "native.host",
    "native.planes",
    "native.losses",
    "models.base",
    "models.oversampled",
    "models.parts",
    "models.klann",
    "models.stacked",
    "models.surgery",
    "models.statics",
    "models.gcn",
    "models.lstm",
    "models.s4d",
    "losses",
    "metrics",
    "inside",
    "reading",
    "wording",
    "fidelity",
    "aliasing",
    "dynamics",
    "detector",
    "plots",
    "charts",
    "portrait",
    "data.lowpass",
    "data.signals",
    "data.devices",
    "data.headers",
    "data.audio",
    "data.resampling",
    "download.link",
    "download.fetch",
    "download.record",
    "download.unpack",
    "download.shelf",
    "download.command",
    "doctor.findings",
    "doctor.samples",
    "doctor.spectrum",
    "doctor.track",
    "doctor.loudness",
    "doctor.faults",
    "doctor.intake",
    "doctor.alignment",
    "doctor.blocks",
    "doctor.linear",
    "doctor.shape",
    "doctor.gains",
    "doctor.periodic",
    "doctor.memory",
    "doctor.repeats",
    "doctor.floor",
    "doctor.material",
    "doctor.character",
    "doctor.warp",
    "doctor.source",
    "doctor.levels",
    "doctor.clicks",
    "doctor.coarse",
    "doctor.fine",
    "doctor.clocks",
    "doctor.align",
    "doctor.pair_faults",
    "doctor.recipe",
    "doctor.mend",
    "doctor.diagnose",
    "data.pairs",
    "doctor.verdict",
    "doctor.admission",
    "doctor.splits",
    "doctor.telling",
    "doctor.picture",
    "doctor.command",
    "data.feeds",
    "data.datamodule",
    "training.notices",
    "training.recipe",
    "training.checkpoints",
    "streaming",
    "export.document",
    "export.rates",
    "export.cpp",
    "export.graph",
    "export.program",
    "export.command",
    "live",
    "playing",
    "training.chance",
    "training.module",
    "training.logs",
    "training.keeper",
    "training.kept",
    "training.stages",
    "training.bar",
    "training.watch",
    "training.media",
    "training.progress",
    "training.spent",
    "evaluate",
    "experiment",
    "resolving",
    "sizing",
    "fitting",
    "importing",
    "measuring",
    "speed_figures",
    "speed_report",
    "runtime_speed",
    "benchmark",
    "comparison.grid",
    "comparison.tables",
    "comparison.scoring",
    "comparison.training",
    "comparison.report",
    "comparison.command",
    "report.contents",
    "report.assets",
    "report.page",
    "report.sources",
    "report.extras",
    "report.heard",
    "report.making",
    "report.numbers",
    "report.pruning",
    "report.readings",
    "report.gathering",
    "report.command",
    "sweep.study",
    "sweep.space",
    "sweep.storage",
    "sweep.ledger",
    "sweep.pruning",
    "sweep.records",
    "sweep.plan",
    "sweep.attempt",
    "sweep.worker",
    "sweep.crew",
    "sweep.preflight",
    "sweep.outcome",
    "sweep.page",
    "sweep.command",
    "calling",
    "cli",
    "__main__",
]
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__init__.py"]
# Each heavy library's only doors; prefixes of module names.
DOORS = {
    "matplotlib": ["plots", "doctor.picture"],
    "soundfile": ["data.audio"],
    "soxr": ["data.resampling"],
    "auraloss": ["losses"],
    "pyloudnorm": ["fidelity"],
    "wandb": ["sweep.records", "training.logs"],
    "optuna": ["sweep."],
    "plotly": ["charts", "portrait", "report.assets", "report.page", "sweep.page"],
    "jinja2": ["report.page"],
    "requests": ["download.link", "download.fetch"],
    "filelock": ["runs", "download.command", "comparison.command", "sweep.command"],
    "jsonschema": ["export.document"],
    "onnx": ["export.graph"],
    "onnxruntime": ["export.command"],
    "sounddevice": ["live"],
    "rich": ["errors", "training.bar"],
    "lightning": ["data.datamodule", "training.", "experiment"],
    "torch": [
        "dsp.",
        "native.",
        "models.",
        "losses",
        "metrics",
        "inside",
        "reading",
        "portrait",
        "data.datamodule",
        "training.",
        "evaluate",
        "experiment",
        "importing",
        "export.",
        "streaming",
        "measuring",
        "benchmark",
        "comparison.",
        "report.",
        "sweep.crew",
        "cli",
    ],
}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: no relative imports"
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def ours(path: Path) -> list[str]:
    prefix = "klann_lightning."
    return [module.removeprefix(prefix) for module in imports(path) if module.startswith(prefix)]


def test_the_order_names_every_file():
    assert sorted(ORDER) == sorted(name_of(path) for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_downwards(path):
    below = ORDER[: ORDER.index(name_of(path))]
    for module in ours(path):
        assert module in below, f"{name_of(path)} must not import {module}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_data_and_models_meet_only_in_the_configuration(path):
    part = name_of(path)
    if part.startswith(("dsp", "models", "losses", "metrics")):
        assert not [module for module in ours(path) if module.startswith("data")]
    if part.startswith("data"):
        assert not [module for module in ours(path) if module.startswith(("dsp", "models", "training"))]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_heavy_libraries_have_one_door(path):
    for module in imports(path):
        doors = DOORS.get(module.partition(".")[0])
        if doors is not None:
            here = any(name_of(path) == door or name_of(path).startswith(door) for door in doors)
            assert here, f"{name_of(path)} must not import {module}"


def loaded_by(module: str, *libraries: str) -> str:
    """Which of the libraries a fresh interpreter holds after importing the module, as a printed list."""
    script = f"import sys, {module}; print([m for m in {libraries!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_command_line_loads_nothing_heavy():
    assert (
        loaded_by("klann_lightning.cli", "torch", "lightning", "wandb", "matplotlib", "scipy", "optuna")
        == "[]"
    )


def test_a_download_loads_nothing_heavy():
    assert loaded_by("klann_lightning.download.command", "torch", "lightning", "numpy", "soundfile") == "[]"


def test_importing_the_experiment_loads_no_logger_and_no_later_library():
    """matplotlib is not among them: torchmetrics, which lightning brings, imports it."""
    assert loaded_by("klann_lightning.experiment", "wandb", "optuna", "onnx") == "[]"
