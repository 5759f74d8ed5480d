"""last.ckpt: when it is written, what it costs, and what becomes of a training that is told to stop."""

import errno
import os
import signal
import stat
import tempfile
import time

import pytest
import torch
from test_stages import SPECTRAL, TIME, fit, state_of

from klann_lightning.errors import CheckpointError, ConfigError, HaltedError, KlannError, PairError
from klann_lightning.experiment import Parser
from klann_lightning.training import keeper
from klann_lightning.training.keeper import Keeper

STAGES = f"[{TIME}, {SPECTRAL}]"  # 5 epochs of 4 steps
QUICK = ("--media=false", "--scored=val", "--trainer.logger=klann_lightning.training.logs.RunLog")


def at_step(monkeypatch, step, act):
    """Do something when this step is under way."""

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == step:
            act()

    monkeypatch.setattr(Keeper, "on_train_batch_start", on_train_batch_start, raising=False)


def tell(number):
    return lambda: os.kill(os.getpid(), number)


@pytest.fixture
def writes(monkeypatch):
    """The checkpoints that are written, by name."""
    names, written = [], keeper._write_error

    def write(path, content):
        names.append(path.stem)
        return written(path, content)

    monkeypatch.setattr(keeper, "_write_error", write)
    return names


@pytest.mark.parametrize(
    ("number", "code", "step"), [(signal.SIGTERM, 143, 5), (signal.SIGINT, 130, 7), (signal.SIGTERM, 143, 18)]
)
def test_a_training_that_is_told_to_stop_goes_on_to_the_bit(
    number, code, step, tiny_root, tmp_path, monkeypatch
):
    """Within an epoch, at the end of one, and in the second stage."""
    handlers = [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)]
    whole = fit(tiny_root, tmp_path / "whole", STAGES, *QUICK)
    with monkeypatch.context() as patch:
        at_step(patch, step, tell(number))
        said = rf"stopped by {number.name} in epoch {step // 4}\. All that was .* is in .*part/last\.ckpt"
        with pytest.raises(HaltedError, match=said) as halted:
            fit(tiny_root, tmp_path / "part", STAGES, *QUICK)
    assert halted.value.exit_code == code
    assert torch.load(tmp_path / "part" / "last.ckpt", weights_only=True)["global_step"] == step + 1
    assert [signal.getsignal(kind) for kind in (signal.SIGTERM, signal.SIGINT)] == handlers
    again = fit(tiny_root, tmp_path / "part", STAGES, *QUICK, "--resume")
    assert again.trainer.global_step == whole.trainer.global_step
    for name, weights in whole.switch.finished.items():
        for key, value in weights.items():
            assert torch.equal(again.switch.finished[name][key], value), (name, key)
    logs = [(tmp_path / run / "metrics.csv").read_text() for run in ("whole", "part")]
    assert logs[0] == logs[1]


def test_a_second_interrupt_stops_at_once(tiny_root, tmp_path, monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)  # where Python has not yet heard
        raise AssertionError("still there")

    at_step(monkeypatch, 9, twice)
    with pytest.raises(HaltedError, match="stopped at once: the last checkpoint") as halted:
        fit(tiny_root, tmp_path, STAGES, *QUICK)
    assert halted.value.exit_code == 130
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 8


def test_a_cluster_that_takes_its_machine_back_gets_the_job_again(tiny_root, tmp_path, monkeypatch):
    """SLURM's signal, as `sbatch --signal=USR1@120` sends it; scontrol is one of ours."""
    tool = tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    job = {"JOB_ID": "4711", "ARRAY_JOB_ID": "4700", "ARRAY_TASK_ID": "3", "NTASKS": "1", "JOB_NAME": "la2a"}
    place = {"PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in (job | place).items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    at_step(monkeypatch, 5, tell(signal.SIGUSR1))
    with pytest.raises(HaltedError, match="Job 4700_3 is in the queue again") as halted:
        fit(tiny_root, tmp_path / "run", STAGES, *QUICK)
    assert halted.value.exit_code == 128 + signal.SIGUSR1
    assert (tmp_path / "asked").read_text() == "requeue 4700_3\n"
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] == 6


def test_a_job_that_the_cluster_does_not_take_back_is_said(monkeypatch, tmp_path):
    """In the cluster's words, or in the system's."""
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("PATH", str(tmp_path))
    said = "Job 4711 could not be put back into the queue: "
    assert keeper._requeue() == f"{said}[Errno 2] No such file or directory: 'scontrol'."
    tool = tmp_path / "scontrol"
    tool.write_text("#!/bin/sh\necho 'Requeue is disabled for job 4711' >&2\nexit 1\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    assert keeper._requeue() == f"{said}Requeue is disabled for job 4711."


def test_checkpoints_are_written_at_validations(tiny_root, tmp_path, writes):
    fit(tiny_root, tmp_path, f"[{TIME}]", *QUICK, "--trainer.check_val_every_n_epoch=2")
    assert writes == ["stage-1-time", "last", "stage-1-time", "last"]


def test_checkpoints_are_written_between_steps_where_the_last_one_is_old(tiny_root, tmp_path, writes):
    fit(tiny_root, tmp_path, f"[{TIME}]", *QUICK, "--keep_minutes=0", "--trainer.check_val_every_n_epoch=9")
    assert writes == ["last"] * 11 + ["stage-1-time", "last"]


def test_checkpoints_wait_where_they_would_take_too_much_time(tiny_root, tmp_path, writes):
    """But for those at the end of a stage and of the training."""
    fit(tiny_root, tmp_path, STAGES, *QUICK, "--keep_minutes=0", "--keep_share=0")
    assert writes[0] == "last"  # after the first step, when none had taken any time yet
    assert writes[1:] == ["stage-1-time", "stage-2-spectral", "last"]
    assert state_of(tmp_path / "stage-1-time.ckpt")["index"] == 0


def test_the_share_of_time_is_kept(tiny_root, tmp_path, monkeypatch):
    """Writing takes 50 ms here, and the training is asked for at most a fifth of its time."""
    spent, written = [], keeper._write_error

    def slow(path, content):
        begun = time.monotonic()
        time.sleep(0.05)
        failure = written(path, content)
        spent.append(time.monotonic() - begun)
        return failure

    monkeypatch.setattr(keeper, "_write_error", slow)
    stage = TIME.replace('"epochs": 3', '"epochs": 40')
    begun = time.monotonic()
    fit(tiny_root, tmp_path, f"[{stage}]", *QUICK, "--keep_share=0.2", "--keep_minutes=0")
    seconds = time.monotonic() - begun
    assert 3 < len(spent) < 40
    assert sum(spent) < 0.2 * seconds + 3 * 0.06  # one too many is begun, two must be


def full(*_):
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_does_not_end_a_training(tiny_root, tmp_path, monkeypatch, caplog):
    """The former checkpoint stays, and what is written once there is space has all that was learned."""
    written, tried = keeper._write_error, []

    def sometimes(path, content):
        tried.append(path.stem)
        return full() if 4 <= len(tried) < 9 else written(path, content)

    monkeypatch.setattr(keeper, "_write_error", sometimes)
    switch = fit(tiny_root, tmp_path, STAGES, *QUICK).switch
    said = "cannot be written: No space left on device. The former one is whole, and the training goes on."
    assert 1 <= caplog.text.count(said) <= 3  # once a name
    assert len(tried) > 9
    for name, weights in switch.finished.items():
        saved = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(saved[key], value) for key, value in weights.items())


def test_what_a_full_disk_cannot_take_at_the_end_is_elsewhere(tiny_root, tmp_path, monkeypatch, caplog):
    written = keeper._write_error
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    run = tmp_path / "run"
    monkeypatch.setattr(
        keeper, "_write_error", lambda path, c: (full if path.parent == run else written)(path, c)
    )
    switch = fit(tiny_root, run, f"[{TIME}]", *QUICK).switch
    kept = elsewhere / "run-stage-1-time.ckpt"
    assert f"run/stage-1-time.ckpt cannot be written: No space left on device. It is in {kept}" in caplog.text
    saved = torch.load(kept, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[key], value) for key, value in switch.finished["stage-1-time"].items())


def test_a_training_that_can_be_kept_nowhere_says_so(tiny_root, tmp_path, monkeypatch):
    monkeypatch.setattr(keeper, "_write_error", full)
    said = r"last\.ckpt cannot be written: No space left on device, nor another folder"
    with pytest.raises(CheckpointError, match=said):
        fit(tiny_root, tmp_path, f"[{TIME}]", *QUICK)


def test_a_training_that_breaks_off_says_how_to_go_on(tiny_root, tmp_path, monkeypatch, caplog):
    def break_off():
        raise MemoryError

    at_step(monkeypatch, 9, break_off)
    with pytest.raises(MemoryError):
        fit(tiny_root, tmp_path, STAGES, *QUICK)
    assert f"The training broke off. All that was learned is in {tmp_path / 'last.ckpt'}: run" in caplog.text


def test_a_recording_that_changes_under_way_is_named(tiny_root, tmp_path, monkeypatch):
    """What was learned until then is kept, and goes on where the recording is back."""
    path = tiny_root / "val" / "tiny-target.wav"
    content, times = path.read_bytes(), path.stat()
    whole = fit(tiny_root, tmp_path / "whole", STAGES, *QUICK).switch.finished
    for number, spoil in enumerate((path.unlink, lambda: path.write_bytes(content[:-4] + b"\0\0\0\1"))):
        part = tmp_path / f"part-{number}"
        with monkeypatch.context() as patch:
            at_step(patch, 9, spoil)
            with pytest.raises(PairError, match=r"val/tiny-target\.wav has changed since the training began"):
                fit(tiny_root, part, STAGES, *QUICK)
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        again = fit(tiny_root, part, STAGES, *QUICK, "--resume").switch.finished
        for name, weights in whole.items():
            assert all(torch.equal(again[name][key], value) for key, value in weights.items())


def test_resume_finds_the_run_and_last_the_newest(tiny_root, tmp_path, monkeypatch, caplog):
    words = ["--trainer.default_root_dir=null", f"--runs={tmp_path}", "--experiment=mine"]
    with monkeypatch.context() as patch:
        at_step(patch, 5, tell(signal.SIGTERM))
        with pytest.raises(HaltedError):
            fit(tiny_root, "", STAGES, *QUICK, *words, "--resume")
    assert f"nothing to resume in {tmp_path / 'mine'}: the training begins" in caplog.text
    (run,) = (tmp_path / "mine").iterdir()
    other = fit(tiny_root, "", STAGES, *QUICK, *words, "--resume", "--seed_everything=1")
    assert other.trainer.default_root_dir != str(run)  # not the same training
    again = fit(tiny_root, "", STAGES, *QUICK, *words, "--resume")
    assert again.trainer.default_root_dir == str(run)
    assert (run / "scores.json").is_file()
    last = fit(tiny_root, "", STAGES, *QUICK, *words, "--ckpt_path=last")
    assert last.trainer.default_root_dir == other.trainer.default_root_dir
    assert "was begun with another configuration: seed_everything" in caplog.text


def test_resume_and_a_checkpoint_contradict_each_other(tiny_root, tmp_path):
    with pytest.raises(ConfigError, match="--resume finds the checkpoint itself"):
        fit(tiny_root, tmp_path, STAGES, "--resume", "--ckpt_path=last")


def test_fewer_devices_than_asked_for_are_said(tiny_root, tmp_path, monkeypatch):
    """On a machine that would have one GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"You requested gpu: \[0, 1, 2, 3\][\s\S]*only has: \[0\]\.? Name"):
        fit(tiny_root, tmp_path, STAGES, "--trainer.accelerator=gpu", "--trainer.devices=4")


def test_a_disk_without_any_space_is_said_before_the_training(tiny_root, tmp_path, monkeypatch):
    """The first thing that is written is the run's configuration."""

    def save(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "config.yaml")

    monkeypatch.setattr(Parser, "save", save)
    with pytest.raises(KlannError, match=r"cannot write config\.yaml: No space left on device\. Free some"):
        fit(tiny_root, tmp_path, STAGES, *QUICK)


def test_devices_that_are_not_there_are_said(tiny_root, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"No supported gpu backend found! Name what is there by --trainer"):
        fit(tiny_root, tmp_path, STAGES, "--trainer.accelerator=gpu")
