"""metrics.csv and W&B: they go on with a resumed training, and their trouble never ends one."""

import csv
import errno
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_stages import SMALL, TIME

from klann_lightning.training.logs import RunLog, WandbLog


def lines(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def test_one_step_is_one_line_until_it_is_saved(tmp_path):
    log = RunLog(str(tmp_path))
    log.log_metrics({"train/loss": 1.5}, 3)
    log.log_metrics({"lr": 0.1}, 3)
    log.save()
    log.log_metrics({"train/loss": 1.25}, 4)
    log.save()
    log.log_metrics({"val/loss": 2.0}, 4)
    log.finalize("success")
    assert lines(tmp_path) == [
        {"lr": "0.1", "step": "3", "train/loss": "1.5", "val/loss": ""},
        {"lr": "", "step": "4", "train/loss": "1.25", "val/loss": ""},
        {"lr": "", "step": "4", "train/loss": "", "val/loss": "2.0"},
    ]


def test_a_resumed_log_has_each_step_once(tmp_path):
    """The killed training had logged more than its last checkpoint, and half a line."""
    log = RunLog(str(tmp_path))
    for step in range(5):
        log.log_metrics({"train/loss": float(step)}, step)
        log.save()
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("5")
    again = RunLog(str(tmp_path))
    again.go_on(3)
    for step in (3, 4):
        again.log_metrics({"train/loss": 10.0 + step}, step)
        again.save()
    assert [row["train/loss"] for row in lines(tmp_path)] == ["0.0", "1.0", "2.0", "13.0", "14.0"]


def test_another_training_in_the_same_folder_begins_a_new_log(tmp_path):
    for value in (1.0, 2.0):
        log = RunLog(str(tmp_path))
        log.log_metrics({"train/loss": value}, 0)
        log.save()
    assert [row["train/loss"] for row in lines(tmp_path)] == ["2.0"]


def test_what_a_full_disk_keeps_out_is_written_later(tmp_path, monkeypatch, caplog):
    log = RunLog(str(tmp_path))
    log.log_metrics({"train/loss": 0.0}, 0)
    log.save()
    opened = Path.open

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    for step in (1, 2):
        log.log_metrics({"train/loss": float(step)}, step)
        log.save()
    assert caplog.text.count("metrics.csv cannot be written: [Errno 28] No space left on device. The t") == 1
    monkeypatch.setattr(Path, "open", opened)
    log.log_metrics({"train/loss": 3.0}, 3)
    log.save()
    assert [row["train/loss"] for row in lines(tmp_path)] == ["0.0", "1.0", "2.0", "3.0"]


class Refusing(BaseHTTPRequestHandler):
    """A W&B that knows no key."""

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        self.send_response(401)
        self.end_headers()
        self.wfile.write(json.dumps({"errors": [{"message": "user is not logged in"}]}).encode())

    do_GET = do_POST  # noqa: N815, the base class's name

    def log_message(self, *_):
        pass


@pytest.fixture
def refusing():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_training_goes_on_offline_where_wandb_refuses_its_key(refusing, tiny_root, tmp_path):
    command = [
        *(sys.executable, "-m", "klann_lightning", "fit", "--data.device=tiny", f"--data.root={tiny_root}"),
        *(*SMALL, f"--model.stages=[{TIME}]", f"--trainer.default_root_dir={tmp_path / 'run'}"),
        *("--trainer.limit_train_batches=1", "--trainer.max_epochs=1", "--media=false", "--scored=val"),
    ]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    online = {"WANDB_MODE": "online", "WANDB_BASE_URL": refusing, "WANDB_API_KEY": "x" * 40}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**inherited, **online})
    assert done.returncode == 0, done.stderr
    assert "W&B cannot log as asked:" in done.stderr
    assert "401" in done.stderr
    assert "It logs offline." in done.stderr
    assert list(tmp_path.glob("run/wandb/offline-run-*/*.wandb"))
    assert (tmp_path / "run" / "scores.json").is_file()


def test_wandb_that_fails_under_way_is_told_once(tmp_path, caplog):
    class Gone:
        config = property(lambda _: 1 / 0)

        def log(self, _):
            raise ConnectionError("the service has gone")

    log = WandbLog(save_dir=str(tmp_path))
    log._experiment = Gone()
    for step in range(3):
        log.log_metrics({"train/loss": 1.0}, step)
    log.log_image("x", ["missing.png"])
    assert caplog.text.count("W&B cannot be written: the service has gone. The training goes on.") == 1
