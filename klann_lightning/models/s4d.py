"""The state-space baseline: S4D, diagonal linear recurrences between pointwise layers (Gu et al. 2022)."""

import math
from collections.abc import Iterable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from klann_lightning.errors import ConfigError
from klann_lightning.models.base import AudioModel, State

PIECE = 8192  # samples that one convolution takes
COARSE = 128  # samples from one coarse power to the next


class Recurrence(NamedTuple):
    """The discrete recurrence s <- pole s + drive x, y = 2 Re(read s); all [H, N] and complex128."""

    log_pole: Tensor
    drive: Tensor
    read: Tensor


class DiagonalSsm(nn.Module):
    """H independent state spaces of N complex modes (and their conjugates), [B, H, T] -> [B, H, T].

    s' = A s + x, y = 2 Re(C s) + D x, held constant over a sample of dt. S4D-Lin: A starts at
    -1/2 + i pi n; dt, spread over a logarithmic range, sets how long each channel remembers.
    """

    def __init__(self, channels: int, modes: int, least_dt: float, most_dt: float) -> None:
        super().__init__()
        self.channels, self.modes = channels, modes
        self.range = math.log(least_dt), math.log(most_dt)
        self.log_dt = nn.Parameter(torch.empty(channels))
        self.log_decay = nn.Parameter(torch.empty(channels, modes))
        self.turn = nn.Parameter(torch.empty(channels, modes))
        self.read = nn.Parameter(torch.empty(channels, modes, 2))
        self.direct = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A new random start."""
        self.log_dt.uniform_(*self.range)
        self.log_decay.fill_(math.log(0.5))
        self.turn.copy_(math.pi * torch.arange(self.modes).expand_as(self.turn))
        self.read.normal_(std=0.5**0.5)
        self.direct.normal_()

    def recurrence(self) -> Recurrence:
        """With the sample held from one to the next; in double precision, which slow modes need."""
        poles = torch.complex(-self.log_decay.double().exp(), self.turn.double())
        log_pole = poles * self.log_dt.double().exp()[:, None]
        drive = torch.expm1(log_pole) / poles
        return Recurrence(log_pole, drive, torch.view_as_complex(self.read.double()))

    def forward(self, x: Tensor, state: Tensor, recurrence: Recurrence) -> tuple[Tensor, Tensor]:
        """x [B, H, T] of any T, state [B, H, N] -> the same two.

        In one piece y = K * x + 2 Re(C pole^(l + 1) s), with the kernel K = 2 Re(C drive pole^l).
        """
        samples, kind = x.shape[-1], state.dtype
        powers = _powers(recurrence.log_pole, samples + 1, kind)  # [H, N, T + 1]
        drive, read = recurrence.drive.to(kind), recurrence.read.to(kind)
        kernel = 2 * torch.einsum("hn,hnt->ht", read * drive, powers[..., :-1]).real
        forced = torch.fft.rfft(x, 2 * samples) * torch.fft.rfft(kernel, 2 * samples)
        free = torch.einsum("bhn,hnt->bht", state * read, powers[..., 1:]).real
        y = torch.fft.irfft(forced, 2 * samples)[..., :samples] + 2 * free + self.direct[:, None] * x
        injected = torch.einsum("bht,hnt->bhn", x.to(kind), powers[..., :-1].flip(-1)) * drive
        return y, state * powers[..., -1] + injected


def _powers(log_pole: Tensor, count: int, kind: torch.dtype) -> Tensor:
    """pole^l for l = 0 .. count - 1, [H, N, count]: few exponentials in double precision, then products."""
    coarse = torch.arange(-(-count // COARSE), device=log_pole.device) * COARSE
    fine = torch.arange(COARSE, device=log_pole.device)
    rough, exact = ((log_pole[..., None] * part).exp().to(kind) for part in (coarse, fine))
    return (rough[..., None] * exact[..., None, :]).flatten(-2)[..., :count]


class S4d(AudioModel):
    """S4D (Gu, Gupta, Goel, Re 2022, arXiv 2206.11893) for audio: layers of state spaces and gates.

    A layer: x + GLU(Linear(GELU(ssm(x)))), between a linear map from mono and one back. No look-ahead.
    """

    def __init__(
        self,
        layers: int = 4,
        channels: int = 16,
        modes: int = 4,
        least_dt: float = 1e-5,
        most_dt: float = 1e-1,
        sample_rate: int = 44100,
    ) -> None:
        """Sizes and start of the network.

        Args:
            layers: of state spaces.
            channels: of every layer, H.
            modes: complex modes a channel, N.
            least_dt: where the slowest channel may start; a mode forgets in 2 / dt samples.
            most_dt: where the fastest may.
            sample_rate: in Hz.
        """
        super().__init__(sample_rate)
        if min(layers, channels, modes) < 1 or not 0 < least_dt <= most_dt:
            raise ConfigError(
                f"layers {layers}, channels {channels} and modes {modes} must be at least 1, "
                f"and 0 < least_dt {least_dt} <= most_dt {most_dt}"
            )
        self.lift = nn.Linear(1, channels)
        self.ssms = nn.ModuleList(DiagonalSsm(channels, modes, least_dt, most_dt) for _ in range(layers))
        self.gates = nn.ModuleList(nn.Linear(channels, 2 * channels) for _ in range(layers))
        self.down = nn.Linear(channels, 1)

    def _ssms(self) -> Iterable[DiagonalSsm]:
        return cast("Iterable[DiagonalSsm]", self.ssms)

    def init_state(self, batch: int) -> State:
        """One complex tensor [B, H, N] a layer."""
        kind = torch.complex128 if self.down.weight.dtype == torch.float64 else torch.complex64
        return tuple(
            torch.zeros(batch, ssm.channels, ssm.modes, dtype=kind, device=self.down.weight.device)
            for ssm in self._ssms()
        )

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As AudioModel, any T: x [B, T], state of [B, H, N] a layer -> (y [B, T], state after)."""
        recurrences = [ssm.recurrence() for ssm in self._ssms()]
        outputs = []
        for piece in x.split(PIECE, -1):
            output, state = self._piece(piece, state, recurrences)
            outputs.append(output)
        return torch.cat(outputs, -1), state

    def _piece(self, x: Tensor, state: State, recurrences: list[Recurrence]) -> tuple[Tensor, State]:
        flow, after = self.lift((x / self.input_level)[..., None]), []
        for ssm, gate, own, recurrence in zip(self._ssms(), self.gates, state, recurrences, strict=True):
            heard, own = ssm(flow.mT, own, recurrence)
            flow = flow + functional.glu(gate(functional.gelu(heard.mT)), -1)
            after.append(own)
        return self.down(flow)[..., 0] * self.output_level, tuple(after)

    def multiply_adds(self) -> int:
        """Of a sample: six real products a mode for s and two for y, one a channel, a weight, a gate."""
        ssms = sum(ssm.channels * (8 * ssm.modes + 1) for ssm in self._ssms())
        maps = [self.lift, *self.gates, self.down]
        gates = sum(ssm.channels for ssm in self._ssms())
        return ssms + gates + sum(part.weight.numel() for part in cast("list[nn.Linear]", maps))
