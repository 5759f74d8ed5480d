"""Names from configurations: each is that of one file or folder where it should lie, or refused."""

import pytest
import yaml
from test_stages import SMALL, TIME

from klann_lightning.cli import main
from klann_lightning.configs import plain_name
from klann_lightning.errors import ConfigError
from klann_lightning.training.recipe import LossStage

NAMES = ["", ".", "..", ".hidden", "../up", "/etc", "a/b", "a\\b", "a\0", "a\nb", "\x1b[31m", "a\x7f", "\x85"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(ConfigError, match=r"^study '.*' cannot be .* a name without / and \\") as refused:
        plain_name(name, "study")
    assert str(refused.value).isprintable()
    with pytest.raises(ConfigError, match=r"^stage '.*' cannot be the name of one file or folder"):
        LossStage(name, {"mse": 1.0}, epochs=1)


@pytest.mark.parametrize("name", ["a", "la2a, 3 s", "<b>|$x$", "2.5", "ä…", "a..b", "~", "-"])
def test_any_other_name_is_kept(name, tmp_path):
    (tmp_path / plain_name(name, "study")).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("command", ["fit", "test"])
def test_no_run_lies_outside_the_folder_of_runs(command, tiny_root, tmp_path):
    words = [command, "--data.device=tiny", f"--data.root={tiny_root}", *SMALL, f"--model.stages=[{TIME}]"]
    words += ["--trainer.logger=false", f"--runs={tmp_path / 'runs'}", "--experiment=../../elsewhere"]
    with pytest.raises(ConfigError, match=r"^experiment '\.\./\.\./elsewhere' cannot be"):
        main(words)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_no_study_lies_outside_the_folder_of_runs(tiny_root, tmp_path):
    file = tmp_path / "study.yaml"
    space = {"model.model.init_args.lift_dim": {"type": "int", "low": 1, "high": 1}}
    file.write_text(yaml.safe_dump({"objectives": ["cost"], "trials": 1, "space": space}))
    words = ["sweep", f"--study={file}", "--data.device=tiny", f"--data.root={tiny_root}", *SMALL]
    words += [f"--model.stages=[{TIME}]", f"--runs={tmp_path / 'runs'}"]
    for more in ("--name=../elsewhere", "--experiment=../elsewhere"):
        with pytest.raises(ConfigError, match=r"^study '\.\./elsewhere.*' cannot be"):
            main([*words, more])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "study.yaml"]
