"""Paired recordings as Lightning knows them: splits, checks, loaders."""

import math
import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from klann_lightning.data.audio import read_audio
from klann_lightning.data.feeds import BatchPlan, Feed, Readers, whole_files
from klann_lightning.data.pairs import Pair, check_pair, find_pairs, opening, resample_pair
from klann_lightning.doctor.admission import Admitted, Align, admit_checked, admit_mended
from klann_lightning.doctor.recipe import Recipes, dump_recipes
from klann_lightning.errors import ConfigError, PairError
from klann_lightning.files import stamp

EVAL_BLOCK = 2**17  # samples fed at once in validation and test; bounds their memory
HELD_BYTES = 2**28  # of training audio held in memory: 12 minutes of a pair at 44.1 kHz
MIN_SCORED = 4096  # samples that a score needs: several frames of the largest FFT

Batch = dict[str, Any]


class CutReader(Dataset[Batch]):
    """Reads planned batches: input and target [B, T] beside the plan's own fields.

    With `hold`, recordings stay in memory if all of them together need at most HELD_BYTES: for
    training, which comes back to every place. Else every cut is read from disk.
    """

    def __init__(self, pairs: Sequence[Pair], hold: bool = False) -> None:
        self.pairs = pairs
        self.hold = hold and sum(pair.frames for pair in pairs) * 2 * 4 <= HELD_BYTES
        self._held: dict[Path, Tensor] = {}
        self._seen = {path: stamp(path) for pair in pairs for path in (pair.input, pair.target)}

    def _cut(self, path: Path, start: int, frames: int) -> Tensor:
        if path not in self._held and stamp(path) != self._seen[path]:
            raise PairError(
                f"{path} has changed since the training began, or is gone. Put back what was there and go on "
                "with --resume, or begin a training of what is there now."
            )
        if not self.hold:
            return torch.from_numpy(read_audio(path, start, frames))
        if path not in self._held:
            self._held[path] = torch.from_numpy(read_audio(path))
        whole = self._held[path]
        if start < 0 or start + frames > len(whole):
            return torch.from_numpy(read_audio(path, start, frames))  # which knows what to do
        return whole[start : start + frames]

    def __getitem__(self, plan: BatchPlan) -> Batch:
        def rows(side: str) -> Tensor:
            paths = [getattr(self.pairs[cut.pair], side) for cut in plan.cuts]
            cuts = zip(paths, plan.cuts, strict=True)
            return torch.stack([self._cut(path, cut.start, plan.frames) for path, cut in cuts])

        return {
            "input": rows("input"),
            "target": rows("target"),
            "fresh": [cut.fresh for cut in plan.cuts],
            "weight": torch.tensor([cut.weight for cut in plan.cuts]),
            "skip": plan.skip,
            "last": plan.last,
            "rows": plan.rows,
            "name": self.pairs[plan.cuts[0].pair].name,
        }


class FeedSampler(Sampler[BatchPlan]):
    """A rank's share of the epoch that Lightning sets, the first `start` of its batches left out once."""

    def __init__(self, feed: Feed, lengths: Sequence[int], seed: int, rank: int, world: int) -> None:
        self.feed, self.lengths, self.seed, self.rank, self.world = feed, lengths, seed, rank, world
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[BatchPlan]:
        plans = self.feed.share(self.lengths, self.seed, self.epoch, self.rank, self.world)
        return islice(plans, self.start, None)

    def __len__(self) -> int:
        return self.feed.batches(self.lengths)


class FeedLoader(DataLoader[Batch]):
    """A loader that goes on within an epoch: its state is how many batches of it were fed."""

    sampler: FeedSampler

    def __init__(self, reader: CutReader, sampler: FeedSampler, num_workers: int) -> None:
        own = torch.Generator()  # torch would draw the workers' seeds from the training's
        super().__init__(reader, None, sampler=sampler, num_workers=num_workers, generator=own)
        self.fed = 0

    def __iter__(self) -> Any:
        self.fed = self.sampler.start
        batches = super().__iter__()  # asks the sampler once, or with workers twice
        self.sampler.start = 0
        for batch in batches:
            self.fed += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"fed": self.fed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.sampler.start = state_dict["fed"]


class PairedDataModule(pl.LightningDataModule):
    """Recordings `<root>/{train,val,test}/<device>*-{input,target}.wav`, checked, read piece by piece."""

    def __init__(
        self,
        device: str | list[str],
        root: Path = Path("data"),
        sample_rate: int = 44100,
        resample: bool = False,
        context_seconds: float = 0.0,
        train_seconds: float | None = None,
        train: Feed | None = None,
        num_workers: int = 0,
        align: Align = "check",
    ) -> None:
        """What to train on and how it is fed.

        Args:
            device: the recordings' name, or several.
            root: folder that holds train/, val/ and test/.
            sample_rate: the experiment's rate in Hz.
            resample: resample recordings of other rates instead of refusing them.
            context_seconds: the opening of val and test files that is fed but not scored.
            train_seconds: how much of every training recording is used, from its start; all by default.
            train: how training is fed; parallel readers with carried state by default.
            num_workers: processes that read ahead; 0 reads in the training process.
            align: `check` trains on no pairs that cannot be learned from; `auto` mends them on the way in, as
                `doctor --fix` does; `off` takes them as they are.
        """
        super().__init__()
        if sample_rate < 1 or context_seconds < 0:
            raise ConfigError(
                f"sample_rate must be at least 1 Hz and context_seconds at least 0, "
                f"not {sample_rate} and {context_seconds}"
            )
        if train_seconds is not None and not train_seconds * sample_rate >= 1:
            raise ConfigError(f"train_seconds must be at least one sample long, not {train_seconds} s")
        self.devices = [device] if isinstance(device, str) else device
        self.root = root
        self.sample_rate = sample_rate
        self.resample = resample
        self.context = round(context_seconds * sample_rate)
        self.train_frames = None if train_seconds is None else round(train_seconds * sample_rate)
        self.feed = train or Readers()
        self.stage_feed: Feed | None = None  # of the stage that trains now, instead
        self.num_workers = num_workers
        self.align = align
        self.pairs: dict[str, list[Pair]] = {}
        self.recipes: Recipes = {}  # how they were mended, here or for a checkpoint
        self._said: set[str] = set()
        self._folder: tempfile.TemporaryDirectory[str] | None = None  # of what is not as recorded

    def setup(self, stage: str) -> None:
        """Check the recordings that `stage` needs, once. Raises PairError for what cannot be used."""
        splits = {"fit": ["train", "val"], "validate": ["val"], "test": ["test"], "predict": ["test"]}
        for split in splits[stage]:
            if split not in self.pairs:
                self.pairs[split] = self._checked(split)

    def levels(self) -> tuple[float, float]:
        """RMS of the training input and of the training target, over all files."""
        pairs = self.pairs["train"]
        frames = sum(pair.frames for pair in pairs)
        energies = (sum(pair.input_energy for pair in pairs), sum(pair.target_energy for pair in pairs))
        return math.sqrt(energies[0] / frames), math.sqrt(energies[1] / frames)

    def train_dataloader(self) -> DataLoader[Batch]:
        """What the feed plans, this rank's rows of it: input and target [B, T] beside the plan's fields."""
        pairs, feed = self.pairs["train"], self.stage_feed or self.feed
        rank, world = self._rank()
        sampler = FeedSampler(feed, [pair.frames for pair in pairs], torch.initial_seed(), rank, world)
        if self.trainer:  # a resumed training asks for its first batches before it sets the epoch
            sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        reader = CutReader(pairs, hold=not self.num_workers)  # each worker would hold its own
        return FeedLoader(reader, sampler, self.num_workers)

    def val_dataloader(self) -> DataLoader[Batch]:
        """This rank's share of the val files, see `whole_files`."""
        return self.whole_files("val", *self._rank())

    def test_dataloader(self) -> DataLoader[Batch]:
        """This rank's share of the test files, see `whole_files`."""
        return self.whole_files("test", *self._rank())

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The test files too."""
        return self.test_dataloader()

    def whole_files(self, split: str, rank: int = 0, world: int = 1) -> DataLoader[Batch]:
        """One rank's share of a split's files, each from start to end in blocks."""
        pairs = self.pairs[split]
        plans = list(whole_files([pair.frames for pair in pairs], self.context, EVAL_BLOCK, rank, world))
        own = torch.Generator()
        return DataLoader(CutReader(pairs), None, sampler=plans, num_workers=self.num_workers, generator=own)

    def teardown(self, stage: str) -> None:
        """Forget the recordings; mended and resampled copies go too."""
        self.pairs = {}
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def state_dict(self) -> dict[str, Any]:
        """How the recordings were mended, for checkpoints."""
        return dump_recipes(self.recipes) if self.align == "auto" else {}

    def _rank(self) -> tuple[int, int]:
        """This rank, and how many there are."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _checked(self, split: str) -> list[Pair]:
        found = find_pairs(self.root, split, self.devices)
        pairs = [self._at_rate(self._admitted(paths, split), split) for paths in found]
        if split == "train" and self.train_frames is not None:
            return [opening(pair, self.train_frames) for pair in pairs]
        if split != "train":
            for pair in pairs:
                if pair.frames - self.context < MIN_SCORED:
                    raise PairError(
                        f"{pair.input} has {pair.frames} samples; after {self.context} of context "
                        f"at least {MIN_SCORED} must be left to score. Use a longer file, or lower "
                        "data.context_seconds."
                    )
        return pairs

    def _at_rate(self, pair: Pair, split: str) -> Pair:
        if pair.sample_rate == self.sample_rate:
            return pair
        if not self.resample:
            raise PairError(
                f"{pair.input} is {pair.sample_rate} Hz, the experiment is {self.sample_rate} Hz. "
                f"Set data.resample to true, or data.sample_rate to {pair.sample_rate}."
            )
        return resample_pair(pair, self.sample_rate, self._copies("resampled", split))

    def _copies(self, kind: str, split: str) -> Path:
        """The folder of a split's copies of that kind."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="klann-recordings-")
        return Path(self._folder.name, kind, split)

    def _admitted(self, paths: tuple[Path, Path], split: str) -> Pair:
        trains = split == "train" or "train" in self.pairs
        if self.align == "off" or (self.align == "check" and not trains):
            return check_pair(*paths)
        admitted = admit_checked(*paths) if self.align == "check" else self._mended(paths, split)
        sentences = [f"{one.evidence} {one.cure}" for one in admitted.harms]
        if admitted.told:
            sentences.append(f"{paths[0]} and its target are mended. {' '.join(admitted.told)}")
        for sentence in sentences:
            if sentence not in self._said:
                rank_zero_info(sentence)
        self._said |= set(sentences)
        return admitted.pair

    def _mended(self, paths: tuple[Path, Path], split: str) -> Admitted:
        name, everyone = paths[0].stem.removesuffix("-input"), self.recipes.values()
        own = self.recipes.get(split, {}).get(name)
        others = [one for each in everyone for other, one in each.items() if self._kin(other, name)]
        rate = self.sample_rate if self.resample else None
        admitted = admit_mended(*paths, rate, own, others, lambda: self._copies("mended", split))
        if admitted.recipe:
            self.recipes.setdefault(split, {})[name] = admitted.recipe
        return admitted

    def _kin(self, *names: str) -> bool:
        """Whether they are takes of one device."""
        return any(all(name.startswith(device) for name in names) for device in self.devices)
