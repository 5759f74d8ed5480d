"""What is given to others: a wheel made of the sdist, as it works where nothing of the source is."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from klann_lightning import __version__, shipped
from klann_lightning.errors import ConfigError

SOURCE = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built of the sdist, which is built of the source."""
    out = tmp_path_factory.mktemp("dist")
    words = ["-m", "build", "--no-isolation", "--outdir", str(out), str(SOURCE)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A new environment with the wheel; its libraries are those of this one, which take gigabytes."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    words = ["-m", "pip", "--python", str(folder / "bin/python"), "install", "--no-deps", "--quiet"]
    done = run(sys.executable, *words, "--disable-pip-version-check", wheel, cwd=folder)
    assert done.returncode == 0, done.stderr
    libraries = Path(pytest.__file__).parents[1]
    (site / "libraries.pth").write_text(f"import sys; sys.path.append({str(libraries)!r})\n")
    return folder / "bin"


def run(*words, cwd):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {
        path.relative_to(SOURCE).as_posix()
        for path in (SOURCE / "klann_lightning").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert package <= names
    assert "klann_lightning/py.typed" in package
    others = {name for name in names - package if ".dist-info/" not in name}
    experiments = {path.relative_to(SOURCE).as_posix() for path in (SOURCE / "sweeps").rglob("*.*")}
    place = f"klann_lightning-{__version__}.data/data/share/klann_lightning/"
    assert others == {f"{place}{name}" for name in experiments}


def test_it_works_where_nothing_of_the_source_is(installed, tmp_path):
    done = run(installed / "klann", "--version", cwd=tmp_path)
    assert (done.stdout.strip(), done.stderr) == (__version__, "")
    where = run(
        installed / "python", "-c", "import klann_lightning; print(klann_lightning.__file__)", cwd=tmp_path
    )
    assert where.stdout.startswith(str(installed.parent))
    small = ["--trainer.max_epochs=3", "--trainer.logger=false", "--data.context_seconds=0.1", "--runs=runs"]
    for words in (
        ["init"],
        ["simulate", "compressor", "data", "--seconds", "5"],
        ["fit", "--config", "sweeps/demo.yaml", *small],
    ):
        done = run(installed / "klann", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    (checkpoint,) = tmp_path.glob("runs/demo/*/stage-3-spectral.ckpt")
    for words in (
        ("export", checkpoint, "amp", "--format", "cpp"),
        ("report", "page", checkpoint, "--seconds", "1"),
    ):
        done = run(installed / "klann", *words, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "amp/klann.hpp").is_file()
    assert (tmp_path / "page/index.html").is_file()


def test_help_is_there_at_once(installed, tmp_path):
    """In 1.5 s of the processor's time, and without any of the heavy libraries."""
    script = (
        "import sys, time; from klann_lightning.cli import main; main(['--help']); "
        "print(time.process_time(), *{'torch', 'lightning', 'numpy', 'rich'} & set(sys.modules))"
    )
    done = run(installed / "python", "-c", script, cwd=tmp_path)
    seconds, *heavy = done.stdout.splitlines()[-1].split()
    assert float(seconds) < 1.5
    assert heavy == []


def test_experiments_are_copied_once(tmp_path, monkeypatch):
    assert shipped.write_experiments(tmp_path / "a" / "new one").is_dir()
    out = shipped.write_experiments(tmp_path)
    assert (out / "systems/small_parallel.yaml").is_file()
    with pytest.raises(ConfigError, match="is there already, and nothing is overwritten"):
        shipped.write_experiments(tmp_path)
    with pytest.raises(ConfigError, match=r"cannot be written: .*Name another folder"):
        shipped.write_experiments(Path("/dev/null"))
    monkeypatch.setattr(shipped, "SOURCE", tmp_path / "none")
    monkeypatch.setattr(shipped, "files", lambda _: [])
    with pytest.raises(ConfigError, match="neither beside the package nor installed"):
        shipped.experiments()
