"""fit, validate, test and predict: LightningCLI with a folder for every run and a table at its end."""

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI

from klann_lightning.data.datamodule import PairedDataModule
from klann_lightning.errors import CheckpointError, ConfigError, OneLineErrors
from klann_lightning.evaluate import Row, baselines, esr_db, row, score, table
from klann_lightning.native.host import after_torch
from klann_lightning.training.media import PredictionWriter, StageMedia
from klann_lightning.training.module import EffectModule, read_checkpoint
from klann_lightning.training.stages import StageSwitch

LOGGERS = [
    {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"save_dir": "", "name": "", "version": ""},
    },
    {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"project": "klann_lightning"}},
]


# What the libraries say at every run and nobody can act on.
NOISE = [
    "isinstance.treespec, LeafSpec",  # lightning calls a torch function by its old name
    "Experiment logs directory .* exists and is not empty",  # our run folder holds the config already
    "does not have many workers",  # cuts are read in a tenth of the time that a step takes
    "LightningCLI's args parameter",  # `main(args)` is how sweeps and tests call it
    "The number of training batches",  # scores are logged by epoch, not by batch
]


def quiet() -> None:
    """Leave out the libraries' notices that are no help here; everything else is still said."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=f".*{message}")
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_chatter)


def _no_chatter(record: logging.LogRecord) -> bool:
    chatter = ("💡", "GPU available", "TPU available", "`Trainer.fit` stopped")
    return not record.getMessage().startswith(chatter)


KEYWORDS = ("best", "last", "hpc")  # checkpoints that Lightning finds itself


class Parser(OneLineErrors, LightningArgumentParser):
    """LightningCLI's, with errors of one line."""


class Experiment(LightningCLI):
    """One experiment of one configuration; every run has its folder `<runs>/<experiment>/<time>`."""

    def __init__(self, args: ArgsType = None) -> None:
        quiet()
        after_torch()
        self.switch = StageSwitch()
        self.media = StageMedia()
        super().__init__(
            EffectModule,
            PairedDataModule,
            args=args,
            seed_everything_default=0,
            parser_class=Parser,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={
                "callbacks": [self.switch, self.media, PredictionWriter()],
                "use_distributed_sampler": False,  # the feeds share out the recordings themselves
                "enable_model_summary": False,
                "max_epochs": -1,  # the stages say when to end
                "logger": LOGGERS,
                "enable_progress_bar": sys.stderr.isatty(),
            },
        )

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
        parser.link_arguments("data.sample_rate", "model.model.init_args.sample_rate")

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        trainer = config.trainer
        if self.subcommand != "fit":
            trainer.logger = False
        if not config.media:
            self.trainer_defaults["callbacks"].remove(self.media)
        if trainer.default_root_dir is None:
            trainer.default_root_dir = str(_run_folder(config))
        for logger in trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]:
            if isinstance(logger, Namespace):
                logger.init_args.save_dir = trainer.default_root_dir

    def _parse_ckpt_path(self) -> None:
        path = self.config[self.config.subcommand].get("ckpt_path")
        if path and path not in KEYWORDS:
            content = read_checkpoint(Path(path))
            if self.config.subcommand == "fit" and "loops" not in content:
                raise CheckpointError(
                    f"{path} is an imported model, without a training to resume. "
                    f"Start one from its weights: --model.init_from {path} in place of --ckpt_path."
                )
        # In fit, a checkpoint's hyper-parameters must not silently overrule what the user configured.
        if self.config.get("subcommand") != "fit":
            super()._parse_ckpt_path()

    def before_fit(self) -> None:
        """Check what is read before anything is logged: a fit ends with a test, unless val is scored."""
        config = self.config[self.subcommand]
        if not config.ckpt_path:
            self.model.begun_model()
        self._check_recordings(config.scored)

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
        (folder / "scores.json").write_text(json.dumps([row._asdict() for row in rows], indent=1))
        print(f"\n{text}\n\nrun: {folder}")
        if config.media:
            print("figures and audio there:", ", ".join(f"{name}/" for name in self.switch.finished))

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
        title = f"{', '.join(self.datamodule.devices)}, {split}"
        return table(title, rows), rows


def resolve(words: Sequence[str]) -> dict[str, Any]:
    """The complete configuration that `fit` would have from these words of a command line; or ConfigError."""
    printed, refused = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(refused):
            Experiment(["fit", *words, "--print_config"])
    except SystemExit as done:
        if done.code:
            raise ConfigError(refused.getvalue().strip().removeprefix("error: ")) from done
    config: dict[str, Any] = yaml.safe_load(printed.getvalue())
    return config


def recordings_of(config: Mapping[str, Any]) -> PairedDataModule:
    """The recordings of a complete configuration, not yet looked at."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(PairedDataModule, "data")
    data: PairedDataModule = parser.instantiate(parser.parse_object({"data": config["data"]}))["data"]
    return data


def _run_folder(config: Namespace) -> Path:
    """A new folder's name for this run; the processes that a distributed run starts share the first one's."""
    if "LOCAL_RANK" in os.environ and "KLANN_RUN" in os.environ:
        return Path(os.environ["KLANN_RUN"])
    started = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = (started if attempt == 1 else f"{started}_{attempt}" for attempt in count(1))
    folders = (Path(config.runs) / config.experiment / name for name in names)
    folder = next(folder for folder in folders if not folder.exists())
    os.environ["KLANN_RUN"] = str(folder)
    return folder
