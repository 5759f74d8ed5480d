"""Grid files: what they say, how they can be wrong, and that the shipped one resolves."""

from pathlib import Path

import pytest
import yaml

from klann_lightning.comparison.grid import Cell, cells, read_grid
from klann_lightning.comparison.training import refuse_fixed, resolved
from klann_lightning.errors import ConfigError

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "sweeps" / "compare" / "paper.yaml"
GOOD = {
    "minutes": 1.5,
    "seeds": [0, 7],
    "devices": {"a": ["--config=a.yaml"], "b c": ["--config=b.yaml"]},
    "systems": {
        "one/two": {"fit": ["--x=1"], "epochs": {"b c": 9}},
        "three": {"fit": [], "devices": ["a"]},
    },
}


def written(folder: Path, **changes) -> Path:
    path = folder / "grid.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}, sort_keys=False))
    return path


def test_cells_go_seed_by_seed(tmp_path):
    found = list(cells(read_grid(written(tmp_path)), ("--last",)))
    assert [cell.name for cell in found] == [
        *("a/one-two/0", "a/three/0", "b_c/one-two/0", "a/one-two/7", "a/three/7", "b_c/one-two/7")
    ]
    assert found[2].words == ("--config=b.yaml", "--x=1", "--trainer.max_epochs=9", "--last")
    assert found[1].words == ("--config=a.yaml", "--trainer.max_epochs=-1", "--last")


def system(**fields):
    return {"one": {"fit": [], **fields}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"minute": 5}, r"grid\.yaml: .*minute"),
        ({"minutes": None}, r"grid\.yaml: .*minutes"),
        ({"minutes": 0}, "minutes must be above 0, not 0"),
        ({"minutes": float("inf")}, "minutes must be above 0, not inf"),
        ({"minutes": float("nan")}, "minutes must be above 0, not nan"),
        ({"seeds": []}, "seeds are none"),
        ({"seeds": [1, 1]}, r"seeds \[1, 1\] are to be 0 or more, and none there twice"),
        ({"seeds": [-1]}, r"seeds \[-1\] are to be 0 or more"),
        ({"seeds": ["x"]}, "seeds"),
        ({"devices": {}}, "devices are none"),
        ({"devices": {"a": "--config=a.yaml"}}, "devices"),
        ({"systems": {"one": {"fit": [], "epoch": {"a": 1}}}}, "epoch"),
        ({"systems": {"one": {}}}, "fit"),
        ({"systems": system(epochs={"A": 5})}, "system one speaks of A; the devices are a, b c"),
        ({"systems": system(devices=["bc"])}, "system one speaks of bc"),
        ({"systems": system(devices=[])}, "system one is for no device"),
        ({"systems": system(epochs={"a": 0})}, r"system one has epochs \{'a': 0\}; they are to be 1 or more"),
        ({"systems": system(devices=["a"])}, "no system is for device b c"),
        ({"systems": {"x y": {"fit": []}, "x_y": {"fit": []}}}, "system 'x y', 'x_y': folders need names"),
        ({"systems": {"..": {"fit": []}}}, r"system '\.\.': its folder '\.\.' cannot be"),
        ({"systems": {"": {"fit": []}}}, "system '': its folder '' cannot be the name of one file or folder"),
        ({"devices": {"../a": []}, "systems": system()}, r"device '\.\./a': its folder '\.\.-a' cannot be"),
        ({"devices": {"a\\b": []}, "systems": system()}, r"its folder 'a\\\\b' cannot be"),
        ({"devices": {"a\x00": []}, "systems": system()}, r"its folder 'a\\x00' cannot be"),
        ({"devices": {"a/b": [], "a-b": []}, "systems": system()}, "device 'a/b', 'a-b': folders"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        read_grid(written(tmp_path, **changes))


def test_a_file_that_is_no_grid_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such grid file"):
        read_grid(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("minutes: [1\n")
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        read_grid(tmp_path / "broken.yaml")


def test_a_cell_says_what_fit_would_say():
    cell = Cell("a", "one", 0, ("--config=none.yaml",))
    with pytest.raises(ConfigError, match=r"^a/one/0: .*none\.yaml"):
        resolved(cell, 1)


@pytest.mark.parametrize("word", ["--trainer.max_time=00:01:00:00", "--seed_everything", "--scored=test"])
def test_options_that_the_grid_decides_are_refused(word):
    with pytest.raises(ConfigError, match="is not open in a comparison"):
        refuse_fixed(["--data.root=data", word])


def shipped() -> list[Cell]:
    """Every system of the shipped grid on the first device that it is for, and every device once."""
    found = list(cells(read_grid(PAPER), ()))
    systems = {cell.system: cell for cell in reversed(found)}
    return list(dict.fromkeys([*systems.values(), *{cell.device: cell for cell in found}.values()]))


@pytest.mark.parametrize("cell", shipped(), ids=lambda cell: cell.name)
def test_the_shipped_grid_resolves(cell, monkeypatch):
    monkeypatch.chdir(ROOT)
    config = resolved(cell, 5)
    assert config["trainer"]["max_time"] == "00:00:05:00"
    assert (config["scored"], config["seed_everything"]) == ("val", cell.seed)
