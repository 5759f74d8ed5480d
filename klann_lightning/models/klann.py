"""KLANN: lift, a bank of linear filters, and down (Huhtala, Juvela, Schlecht 2024, figure 1)."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from klann_lightning.dsp.filtering import filter_sampled, filter_scan
from klann_lightning.dsp.svf import SvfControls, cutoff_hz, response_on_circle
from klann_lightning.errors import ConfigError
from klann_lightning.models.base import AudioModel, State
from klann_lightning.models.parts import FilterBank, Pointwise
from klann_lightning.native.calls import callable_with
from klann_lightning.native.planes import CompiledProgram, Operations, Program, compiled
from klann_lightning.units import hertz

Run = Callable[[Tensor, slice], Tensor]  # runs some of the bank's filters over x [B, F, T]


class Inside(NamedTuple):
    """What goes on in a model, sample by sample."""

    entering: Tensor  # what each of the F filters is given, [B, F, T]
    leaving: Tensor  # what it makes of that, [B, F, T]
    output: Tensor  # [B, T]


class Klann(AudioModel):
    """What all topologies share; a subclass says how the lifted channels run through the filters."""

    stacks = False  # whether it has several banks

    def __init__(
        self,
        hidden: Sequence[int],
        lift_dim: int,
        sections: int = 1,
        start: Literal["paper", "log"] = "log",
        low_hz: float = 0.5,
        high_hz: float = 16000.0,
        initial: Literal["silence", "zero"] = "silence",
        sample_rate: int = 44100,
        banks: int = 1,
    ) -> None:
        """Sizes and start of the network.

        Args:
            hidden: widths of the lift's gated layers; the way down has them mirrored.
            lift_dim: lifted channels D, each with its own filter.
            sections: biquads a channel, in cascade.
            start: where the cutoffs start, see FilterBank.
            low_hz: lowest cutoff of the `log` start.
            high_hz: highest cutoff of the `log` start.
            initial: the filters' state before the first sample: settled in silence, or zero as in the paper.
            sample_rate: in Hz.
            banks: of D filters each, where the system stacks them; the way down reads them all.
        """
        super().__init__(sample_rate)
        if banks != 1 and not self.stacks:
            raise ConfigError(f"{type(self).__name__} has one bank, not {banks}: StackedKlann has several")
        # One compiled pass where there can be one; False: a torch operation for every layer.
        self.fused = True
        self.initial = initial
        if min([*hidden, lift_dim, sections], default=0) < 1:
            raise ConfigError(
                f"hidden {list(hidden)}, lift_dim {lift_dim} and sections {sections} must be at least 1"
            )
        self.lift = Pointwise([1, *hidden, lift_dim])
        channels = banks * lift_dim
        self.bank = FilterBank(channels, sections, start, low_hz, high_hz, sample_rate, banks)
        self.down = Pointwise([channels, *reversed(hidden), 1])

    @abstractmethod
    def linear(self, u: Tensor, run: Run) -> Tensor:
        """Lifted channels u [B, D, T] through the filters, run from the first on -> [B, filters, T]."""

    def multiply_adds(self) -> int:
        """Of every pointwise network and every biquad."""
        parts = (part for part in self.modules() if isinstance(part, Pointwise | FilterBank))
        return sum(part.multiply_adds() for part in parts)

    @abstractmethod
    def write_linear(self, program: Operations, planes: Sequence[int]) -> list[int]:
        """The same as operations of a program."""

    def write(self, program: Operations) -> None:
        """The whole network, between the levels, as operations of a program."""
        self.down.write(program, self.write_linear(program, self.lift.write(program, [0])))

    @cached_property
    def compiled(self) -> CompiledProgram | None:
        """The whole model as one pass over the audio; delete this after a layer was exchanged for another."""
        program = Program(self, *self.bank.parameters())
        try:
            self.write(program)
        except LookupError:  # a pruned layer, or one that makes its weights from others
            return None
        return compiled(program)

    def __getstate__(self) -> dict[str, Any]:
        """A copy compiles for itself."""
        return {name: value for name, value in vars(self).items() if name != "compiled"}

    def init_state(self, batch: int) -> State:
        """One tensor [B, channels, sections, 2]: the integrators of every filter.

        A constant u has settled where bp = hp = 0 and lp = u, that is at s1 = 0, s2 = u, and comes
        out as m_lp u. From zero instead, the lift's constants would charge the slow filters first.
        """
        if self.initial == "zero":
            return (self.bank.cutoff.new_zeros(batch, *self.bank.cutoff.shape, 2),)
        settled: list[Tensor] = []

        def run(channels: Tensor, filters: slice) -> Tensor:
            states = []
            for gain in self.bank.mix[filters, :, 0].unbind(1):
                states.append(channels[..., 0])
                channels = channels * gain[:, None]
            settled.append(torch.stack(states, 2))
            return channels

        self.linear(self.lift(self.bank.cutoff.new_zeros(1, 1, 1)), run)
        s2 = torch.cat(settled, 1)
        return (torch.stack([torch.zeros_like(s2), s2], -1).expand(batch, -1, -1, -1),)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As AudioModel, any T: x [B, T], state ([B, channels, sections, 2],) -> (y [B, T], state after).

        One compiled pass where there is a compiler, x is on the CPU and `fused` is true; else a torch
        operation for every layer. Both agree to rounding.
        """
        shaped = x.ndim == 2 and x.numel() and state[0].shape == (len(x), *self.bank.cutoff.shape, 2)
        if self.fused and shaped and callable_with(x, state[0]) and self.compiled is not None:
            parameters = self.compiled.program.parameters()
            if callable_with(x, *parameters):
                scales = 1 / float(self.input_level), float(self.output_level)
                y, after = self.compiled.run(x, state[0].flatten(1, 2), parameters, *scales)
                return y, (after.view_as(state[0]),)
        return self._plain_step(x, state)

    def _plain_step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        inside, after = self.inside(x, state)
        return inside.output, after

    def inside(self, x: Tensor, state: State) -> tuple[Inside, State]:
        """As `step`, layer by layer: x [B, T] -> (all that every filter is given and makes, state after)."""
        unrolled = self.bank.unrolled()
        (before,) = state
        entering: list[Tensor] = []
        after: list[Tensor] = []

        def run(channels: Tensor, filters: slice) -> Tensor:
            entering.append(channels)
            states = []
            for index, section in enumerate(unrolled):
                channels, last = filter_scan(channels, section.select(filters), before[:, filters, index])
                states.append(last)
            after.append(torch.stack(states, 2))
            return channels

        leaving = self.linear(self.lift((x / self.input_level)[:, None]), run)
        y = self.down(leaving)[:, 0] * self.output_level
        return Inside(torch.cat(entering, 1), leaving, y), (torch.cat(after, 1),)

    def channel_names(self) -> list[str]:
        """What to call the bank's channels in figures."""
        return [f"channel {i}" for i in range(1, len(self.bank.cutoff) + 1)]

    @torch.no_grad()
    def filter_responses(self, frequencies_hz: Tensor) -> tuple[list[str], Tensor]:
        """Of every channel's cascade: names with cutoffs, and dB [channels, N] at frequencies [N] in Hz."""
        omega = 2 * torch.pi * frequencies_hz / self.sample_rate
        controls = self.bank.controls()
        magnitude = response_on_circle(controls, omega).abs().prod(1)
        cutoffs = cutoff_hz(controls, self.sample_rate).tolist()
        names = self.channel_names()
        labels = [
            f"{name}: {', '.join(hertz(value, digits=3) for value in row)}"
            for name, row in zip(names, cutoffs, strict=True)
        ]
        return labels, 20 * magnitude.clamp(min=1e-10).log10()

    def forward_sampled(self, x: Tensor) -> Tensor:
        """By `filter_sampled`, from zero state: [B, T] -> [B, T]; filters slower than 0.1 s are wrong."""
        sections = self.bank.section_controls()

        def run(channels: Tensor, filters: slice) -> Tensor:
            for controls in sections:
                channels = filter_sampled(channels, SvfControls(*(part[filters] for part in controls)))
            return channels

        return self._around(x, run)

    def _around(self, x: Tensor, run: Run) -> Tensor:
        lifted = self.lift((x / self.input_level)[:, None])
        return self.down(self.linear(lifted, run))[:, 0] * self.output_level


class ParallelKlann(Klann):
    """z_i = filter_i(u_i); the way down reads all z_i (the paper's first model)."""

    def linear(self, u: Tensor, run: Run) -> Tensor:
        """All channels at once: [B, D, T] -> [B, D, T]."""
        return run(u, slice(0, u.shape[1]))

    def write_linear(self, program: Operations, planes: Sequence[int]) -> list[int]:
        return self.bank.write_side_by_side(program, planes)


class ParallelSeriesKlann(Klann):
    """z_1 = filter_1(u_1); z_i = filter_i(m_i(z_(i-1), u_i)) (the paper's second model).

    m_i is Linear(2, 2 mid_width) - GLU - Linear(mid_width, 1).
    """

    def __init__(
        self,
        hidden: Sequence[int],
        lift_dim: int,
        mid_width: int,
        sections: int = 1,
        start: Literal["paper", "log"] = "log",
        low_hz: float = 0.5,
        high_hz: float = 16000.0,
        initial: Literal["silence", "zero"] = "silence",
        sample_rate: int = 44100,
    ) -> None:
        """As Klann; `mid_width` is the width of the maps between the filters."""
        super().__init__(hidden, lift_dim, sections, start, low_hz, high_hz, initial, sample_rate)
        if mid_width < 1:
            raise ConfigError(f"mid_width must be at least 1, not {mid_width}")
        self.mids = nn.ModuleList(Pointwise([2, mid_width, 1]) for _ in range(lift_dim - 1))

    def linear(self, u: Tensor, run: Run) -> Tensor:
        """One channel after the other, each given what the one before made: [B, D, T] -> [B, D, T]."""
        outputs = [run(u[:, :1], slice(0, 1))]
        for index, mid in enumerate(self.mids, start=1):
            pair = torch.cat([outputs[-1], u[:, index : index + 1]], 1)
            outputs.append(run(mid(pair), slice(index, index + 1)))
        return torch.cat(outputs, 1)

    def write_linear(self, program: Operations, planes: Sequence[int]) -> list[int]:
        outputs = [self.bank.write(program, planes[0], 0)]
        for channel, mid in enumerate(cast("Iterable[Pointwise]", self.mids), start=1):
            (mixed,) = mid.write(program, [outputs[-1], planes[channel]])
            outputs.append(self.bank.write(program, mixed, channel))
        return outputs
