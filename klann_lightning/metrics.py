"""Whole-file scores: sum over everything first, divide once.

Files come in consecutive blocks, so that an hour needs no more memory than a second. Sums are
float64 and add up over files and over ranks; the mean of per-segment ratios is another number.
"""

import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics import Metric

from klann_lightning.losses import StftResolutions, magnitude_stfts, mr_stft, pre_emphasised


def decibels(ratio: Tensor) -> Tensor:
    """An energy ratio [...] in dB, 10 log10 of it; -inf for 0."""
    return 10 * torch.log10(ratio)


class ErrorRatios(Metric):
    """The time-domain terms of losses.py over whole files: mse, esr, esr_pre, l1, dc.

    Beside them `level`, the output's energy over the target's, and their `correlation`, -1 to 1.

    `update(output, target, last)` takes the next block [B, T] of B files; `last` ends them.
    ESR is not floored here; over silent targets it is infinite.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, shared: bool = True) -> None:
        super().__init__(sync_on_compute=shared)
        # energies of error and target, of both after pre-emphasis, of the output, |error|, error, samples
        self.add_state("sums", torch.zeros(8, dtype=torch.float64), dist_reduce_fx="sum")
        self._before: Tensor | None = None

    def update(self, output: Tensor, target: Tensor, last: bool = True) -> None:
        """Add a block [B, T] of B files; T of one call need not be that of the next."""
        both = torch.stack([output - target, target]).double()
        joined = both if self._before is None else torch.cat([self._before, both], -1)
        emphasised = pre_emphasised(joined)
        error = both[0]
        energies = [part.square().sum() for part in (*both, *emphasised)]
        count = torch.tensor(error.numel(), dtype=torch.float64, device=error.device)
        energies.append((both[0] + both[1]).square().sum())
        self.sums += torch.stack([*energies, error.abs().sum(), error.sum(), count])
        self._before = None if last else joined[..., -1:]

    def reset(self) -> None:
        super().reset()
        self._before = None

    def compute(self) -> dict[str, Tensor]:
        """Every term by name, [] each, float64; nan or infinite where the target, or all, was silent."""
        error, target, error_pre, target_pre, output, absolute, offset, count = self.sums
        return {
            "mse": error / count,
            "esr": error / target,
            "esr_pre": error_pre / target_pre,
            "l1": absolute / count,
            "dc": (offset / count) ** 2 / (target / count),
            "level": output / target,
            "correlation": (output + target - error) / 2 / (output * target).sqrt(),
        }


class WholeFileStft(Metric):
    """MR-STFT over whole files, equal to auraloss on one file given at once.

    `update(output, target, last)` takes the next block [B, T] of B files, the first longer than half
    the largest FFT; `last` ends them. Frames lie on one grid over the file, its ends reflected.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, resolutions: StftResolutions, shared: bool = True) -> None:
        super().__init__(sync_on_compute=shared)
        self.stfts = magnitude_stfts(resolutions)
        # for each resolution those of MagnitudeStft
        self.add_state("sums", torch.zeros(len(self.stfts), 4, dtype=torch.float64), dist_reduce_fx="sum")
        self._waiting: list[Tensor | None] = [None] * len(self.stfts)

    def update(self, output: Tensor, target: Tensor, last: bool = True) -> None:
        """Add a block [B, T] of B files; an empty one is nothing."""
        block = torch.stack([output, target])
        if not block.numel():
            return
        for index, stft in enumerate(self.stfts):
            half = stft.fft_size // 2
            waiting = self._waiting[index]
            if waiting is None:
                joined = functional.pad(block, (half, 0), mode="reflect")
            else:
                joined = torch.cat([waiting, block], -1)
            if last:
                joined = functional.pad(joined, (0, half), mode="reflect")
            frames = (joined.shape[-1] - stft.fft_size) // stft.hop_size + 1
            if frames > 0:
                ours, theirs = joined[..., : (frames - 1) * stft.hop_size + stft.fft_size]
                self.sums[index] += stft.sums(ours, theirs, center=False)
            self._waiting[index] = None if last else joined[..., max(frames, 0) * stft.hop_size :]

    def reset(self) -> None:
        super().reset()
        self._waiting = [None] * len(self.stfts)

    def compute(self) -> Tensor:
        """The MR-STFT of all files together, [], float64 (Yamamoto, Song, Kim 2020)."""
        return mr_stft(self.sums)


class FileScores(Metric):
    """All scores at once: `compute()` gives every loss term by name, and esr_db.

    `update(output, target, last)` as in its two parts.
    """

    full_state_update = False

    def __init__(self, resolutions: StftResolutions, shared: bool = True) -> None:
        """`shared`: the files are shared out between the ranks of a distributed run, and the sums add up."""
        super().__init__(sync_on_compute=shared)
        self.ratios = ErrorRatios(shared)
        self.spectra = WholeFileStft(resolutions, shared)

    def update(self, output: Tensor, target: Tensor, last: bool = True) -> None:
        """Add a block [B, T] of B files to both parts."""
        self.ratios.update(output, target, last)
        self.spectra.update(output, target, last)

    def compute(self) -> dict[str, Tensor]:
        """Every term by name, [] each, float64; esr_db is 10 log10 of the ESR."""
        ratios = self.ratios.compute()
        return {**ratios, "mr_stft": self.spectra.compute(), "esr_db": decibels(ratios["esr"])}

    def reset(self) -> None:
        super().reset()
        self.ratios.reset()
        self.spectra.reset()
