"""What the libraries say at every run and nobody can act on."""

import logging
import warnings

from klann_lightning.manners import hushed

NOISE = [
    "isinstance.treespec, LeafSpec",  # lightning calls a torch function by its old name
    "Experiment logs directory .* exists and is not empty",  # our run folder holds the config already
    "does not have many workers",  # cuts are read in a tenth of the time that a step takes
    "LightningCLI's args parameter",  # `main(args)` is how sweeps and tests call it
    "The number of training batches",  # scores are logged by epoch, not by batch
]


def without_noise() -> None:
    """Leave out the libraries' notices that are no help here; everything else is still said."""
    for message in NOISE:
        warnings.filterwarnings("ignore", message=f".*{message}")
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_no_chatter)


def _no_chatter(record: logging.LogRecord) -> bool:
    chatter = ("💡", "GPU available", "TPU available", "`Trainer.fit` stopped", "Restor")
    return not (hushed() and record.levelno < logging.WARNING) and not record.getMessage().startswith(chatter)
