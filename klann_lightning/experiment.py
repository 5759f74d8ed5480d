"""fit, validate, test and predict: LightningCLI with a folder for every run and a table at its end."""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info

from klann_lightning.data.datamodule import PairedDataModule
from klann_lightning.doctor.recipe import Recipes
from klann_lightning.errors import CheckpointError, ConfigError, KlannError, OneLineErrors
from klann_lightning.evaluate import Row, baselines, esr_db, row, score, table
from klann_lightning.files import write_whole
from klann_lightning.handshake import LAST, SCORES_FILE
from klann_lightning.manners import watched
from klann_lightning.native.host import after_torch, die_with_parent
from klann_lightning.runs import changed, hold, new_folder, newest, unfinished
from klann_lightning.training.bar import StageBar
from klann_lightning.training.checkpoints import mended_as, read_checkpoint, scored_settings
from klann_lightning.training.keeper import CheckpointFiles, Keeper
from klann_lightning.training.media import PredictionWriter, StageMedia
from klann_lightning.training.module import EffectModule
from klann_lightning.training.notices import without_noise
from klann_lightning.training.stages import StageSwitch
from klann_lightning.training.watch import Watch

RUN = "KLANN_RUN"  # environment variable, for the processes that a distributed fit starts: its folder
BEGUN = "KLANN_BEGUN"  # and the checkpoint that it goes on from, if any
MENDED = "alignment.json"  # in a run's folder: how its recordings were mended, if they were
LOGGERS = [{"class_path": f"klann_lightning.training.logs.{name}"} for name in ("RunLog", "WandbLog")]


class Parser(OneLineErrors, LightningArgumentParser):
    """LightningCLI's, with errors of one line."""


@contextmanager
def explained() -> Iterator[None]:
    """KlannError for what the machine does to a training: a full disk, or a process that is gone."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise KlannError(
                f"cannot write {error.filename or 'what the run leaves'}: {error.strerror}. Free some space, "
                "or name another folder by --runs, and run the same command with --resume."
            ) from error
        raise
    except RuntimeError as error:
        if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
            raise KlannError(
                "a process of this training is gone, so the others end too. What it told of it stands above. "
                "Run the same command with --resume to go on from the last checkpoint."
            ) from error
        raise


def started_by_a_rank() -> bool:
    """Whether the first rank of a distributed fit has started this process, and told it the run."""
    return "LOCAL_RANK" in os.environ and RUN in os.environ


class Experiment(LightningCLI):
    """One experiment of one configuration; every run has its folder `<runs>/<experiment>/<time>`."""

    def __init__(self, args: Sequence[str]) -> None:
        """`args` are the words of a command line, the command first."""
        self._command = args[0]
        without_noise()
        after_torch()
        self.keeper = Keeper()
        self._mended: Recipes = {}  # the recordings of the checkpoint that is gone on with, or scored
        self.switch = StageSwitch(self.keeper)
        self.media, self.bar, writer = StageMedia(), StageBar(self.switch), PredictionWriter()
        if started_by_a_rank():
            die_with_parent()
        with ExitStack() as self._held, explained():  # what is held is let go at the end
            super().__init__(
                EffectModule,
                PairedDataModule,
                args=list(args),
                seed_everything_default=0,
                parser_class=Parser,
                save_config_kwargs={"overwrite": True},
                trainer_defaults={
                    # what a stage's end changes is in what the keeper then writes
                    "callbacks": [self.switch, Watch(self.switch), self.keeper, self.media, self.bar, writer],
                    "use_distributed_sampler": False,  # the feeds share out the recordings themselves
                    "enable_model_summary": False,
                    "max_epochs": -1,  # the stages say when to end
                    "logger": LOGGERS,
                    "enable_progress_bar": watched(),
                },
            )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The one that is called: every one's parser costs as much as all the rest of parsing."""
        return {self._command: LightningCLI.subcommands()[self._command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--experiment", type=str, default="experiment", help="name of the run's folder")
        parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder that holds all runs")
        parser.add_argument(
            "--scored",
            type=Literal["test", "val"],
            default="test",
            help="recordings of fit's final table; searches look at val alone",
        )
        parser.add_argument("--media", type=bool, default=True, help="figures and audio at every stage's end")
        parser.add_argument(
            "--resume", action="store_true", help="go on with this experiment's newest unfinished run"
        )
        parser.add_argument(
            "--keep_minutes", type=float, default=5.0, help="from one checkpoint to the next, at most"
        )
        parser.add_argument(
            "--keep_share", type=float, default=0.02, help="of a training's time for checkpoints, at most"
        )
        parser.link_arguments("data.sample_rate", "model.model.init_args.sample_rate")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        trainer = config.trainer
        if self.subcommand != "fit":
            trainer.logger = False
        if not config.media:
            self.trainer_defaults["callbacks"].remove(self.media)
        named = trainer.callbacks if isinstance(trainer.callbacks, list) else [trainer.callbacks]
        # One is all there may be.
        another = any(one and one.class_path.endswith("ProgressBar") for one in named)
        if another or not trainer.enable_progress_bar:
            self.trainer_defaults["callbacks"].remove(self.bar)
        self.keeper.minutes, self.keeper.share = config.keep_minutes, config.keep_share
        self.keeper.max_steps = trainer.max_steps
        if trainer.default_root_dir is None:
            trainer.default_root_dir = str(new_folder(config.runs, config.experiment))
        for logger in trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]:
            if isinstance(logger, Namespace):
                logger.init_args.save_dir = trainer.default_root_dir

    def _parse_ckpt_path(self) -> None:
        """Outside fit, a checkpoint's model and loss take the place of what is configured."""
        command = self.config.subcommand
        if command == "fit":
            self._find_run()
        path, rate = self.config[command].ckpt_path, self.config[command].data.sample_rate
        if not path:
            return
        content = read_checkpoint(Path(path))
        self._mended = mended_as(Path(path), content)
        if command != "fit":
            settings = {command: {"model": scored_settings(Path(path), rate)}}
            self.config = self.parser.parse_object(settings, self.config)
        elif "loops" not in content:
            raise CheckpointError(
                f"{path} is an imported model, without a training to resume. "
                f"Start one from its weights: --model.init_from {path} in place of --ckpt_path."
            )

    def _find_run(self) -> None:
        """In which folder this fit trains, and from which checkpoint it goes on, if from any."""
        config = self.config.fit
        if started_by_a_rank():
            config.trainer.default_root_dir, config.ckpt_path = os.environ[RUN], os.environ[BEGUN] or None
            return
        if config.resume and config.ckpt_path:
            raise ConfigError("--resume finds the checkpoint itself. Leave out --resume or --ckpt_path.")
        named, runs = config.trainer.default_root_dir, (config.runs, config.experiment)
        folder: Path | None = None
        if config.resume:
            folder = Path(named) if named else unfinished(*runs, self._described(config))
            if folder is None or not (folder / LAST).is_file():
                rank_zero_info(f"nothing to resume in {folder or Path(*runs)}: the training begins")
                folder = None
        elif config.ckpt_path == "last":
            folder = Path(named) if named else newest(*runs)
            if others := changed(folder, self._described(config)):
                rank_zero_info(f"{folder} was begun with another configuration: {', '.join(others)}")
        if folder is not None:
            rank_zero_info(f"goes on with {folder}")
            config.ckpt_path = str(folder / LAST)
        config.trainer.default_root_dir = named or str(folder or new_folder(*runs))
        os.environ[RUN], os.environ[BEGUN] = config.trainer.default_root_dir, config.ckpt_path or ""

    def _described(self, config: Namespace) -> dict[str, Any]:
        """As a run's folder holds it."""
        described: dict[str, Any] = yaml.safe_load(self._parser("fit").dump(config, skip_none=False))
        return described

    def instantiate_classes(self) -> None:
        """A checkpoint's takes and those that are mended now get one delay."""
        super().instantiate_classes()
        self.datamodule.recipes = self._mended

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """With our checkpoint files; ConfigError for devices that are not there."""
        plugins = self.config_init[self.subcommand].trainer.plugins or []
        own = [*(plugins if isinstance(plugins, list) else [plugins]), CheckpointFiles()]
        try:
            return super().instantiate_trainer(plugins=own, max_steps=-1, **kwargs)
        except MisconfigurationException as error:
            raise ConfigError(f"{error} Name what is there by --trainer.accelerator and .devices.") from error

    def before_fit(self) -> None:
        """Check what is read before anything is logged: a fit ends with a test, unless val is scored."""
        config = self.config[self.subcommand]
        if not config.ckpt_path:
            self.model.begun_model()
        else:
            self.model.check_fits(Path(config.ckpt_path))
        self._check_recordings(config.scored)
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            folder = Path(self.trainer.default_root_dir)
            self._held.enter_context(hold(folder))
            if recipes := self.datamodule.state_dict():
                write_whole(folder / MENDED, json.dumps(recipes, indent=1))
        config.ckpt_path, config.resume = None, False  # of this fit, not of the run: it saves the rest

    def _check_recordings(self, scored: str) -> None:
        self.datamodule.setup("fit")
        if scored == "test":
            self.datamodule.setup("test")

    def after_fit(self) -> None:
        """Score the best of every stage on whole files, and print it beside what needs no model."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        config = self.config[self.subcommand]
        if config.scored == "test":
            self.trainer.test(self.model, self.datamodule, verbose=False)
        if not self.trainer.is_global_zero:
            return
        text, rows = self._scores(config.scored)
        folder = Path(self.trainer.default_root_dir)
        print(f"\n{text}\n\nrun: {folder}")
        try:
            write_whole(folder / SCORES_FILE, json.dumps([row._asdict() for row in rows], indent=1))
        except OSError as error:
            raise ConfigError(
                f"{folder / SCORES_FILE} cannot be written: {error.strerror}. Free some space, and run the "
                "same command with --resume: the training is done, only its scores are not kept."
            ) from error
        if config.media:
            drawn = [f"{name}/" for name in self.switch.finished if (folder / name).is_dir()]
            print("figures and audio there:", ", ".join(drawn))

    def _scores(self, split: str) -> tuple[str, list[Row]]:
        self._check_recordings(split)  # a test has forgotten them
        batches, trained_on = self.datamodule.whole_files(split), self.datamodule.whole_files("train")
        resolutions = self.model.resolutions
        rows = baselines(batches, resolutions)
        module = self.model.cpu()
        for name, weights in self.switch.finished.items():
            module.load_state_dict(weights)
            scores = score(module.model, batches, resolutions)
            rows.append(row(name, scores, esr_db(module.model, trained_on)))
        self.datamodule.teardown("test")
        title = f"{', '.join(self.datamodule.devices)}, {split}"
        return table(title, rows), rows
