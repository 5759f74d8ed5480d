"""GCN and GCNTF: gated convolutions, with and without a recurrent modulation (Comunita et al. 2022)."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from klann_lightning.errors import ConfigError
from klann_lightning.models.base import AudioModel, State


class TemporalFilm(nn.Module):
    """TFiLM (Birnbaum et al. 2019): every block of `block` samples is scaled, channel by channel.

    A one-layer LSTM runs over the blocks' maxima; its outputs are the scales. A block is heard as a whole
    before its first sample comes out: that looks block - 1 samples ahead.
    """

    def __init__(self, channels: int, block: int) -> None:
        super().__init__()
        self.block = block
        self.lstm = nn.LSTM(channels, channels, batch_first=True)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, C, T], the LSTM's state [B, C] twice -> the same three; a last block may be incomplete."""
        maxima = functional.max_pool1d(x, self.block, ceil_mode=True)
        scales, (hidden, cell) = self.lstm(maxima.mT, (hidden[None].contiguous(), cell[None].contiguous()))
        spread = scales.mT.repeat_interleave(self.block, -1)[..., : x.shape[-1]]
        return x * spread, hidden[0], cell[0]

    def multiply_adds(self) -> float:
        """Of a sample: its scaling, and its part of the LSTM's step."""
        channels = self.lstm.hidden_size
        return channels + (8 * channels**2 + 3 * channels) / self.block


class GatedLayer(nn.Module):
    """z = tanh(first half) sigmoid(second half) of a dilated convolution; mix(z) + x goes on.

    The convolution reaches `reach` = (kernel - 1) dilation samples back. As long as it would reach beyond
    the beginning of the audio, z is zero: that is the paper's padding, after the gate.
    """

    def __init__(
        self, inputs: int, channels: int, kernel: int, dilation: int, film_block: int | None
    ) -> None:
        super().__init__()
        self.reach = (kernel - 1) * dilation
        self.convolution = nn.Conv1d(inputs, 2 * channels, kernel, dilation=dilation)
        self.film = None if film_block is None else TemporalFilm(channels, film_block)
        self.mix = nn.Conv1d(channels, channels, 1)

    def init_state(self, batch: int) -> State:
        """The inputs before [B, inputs, reach]; with TFiLM its LSTM's state, [B, channels] twice."""
        like = self.convolution.weight
        history = like.new_zeros(batch, like.shape[1], self.reach)
        if self.film is None:
            return (history,)
        return history, *like.new_zeros(2, batch, self.mix.in_channels)

    def forward(self, x: Tensor, place: Tensor | None, state: State) -> tuple[Tensor, State]:
        """x [B, inputs, T] and the state -> z [B, channels, T] and the state after.

        `place` [B, T] counts the samples from the beginning of the audio; None says that it is out of reach.
        """
        history, *recurrent = state
        joined = torch.cat([history, x], -1)
        left, right = self.convolution(joined).chunk(2, 1)
        z = torch.tanh(left) * torch.sigmoid(right)
        if place is not None:
            z = z * (place >= self.reach)[:, None]
        if self.film is not None:
            z, *recurrent = self.film(z, *recurrent)
        return z, (joined[..., joined.shape[-1] - self.reach :], *recurrent)

    def multiply_adds(self) -> float:
        """Of a sample, without the mix."""
        film = 0.0 if self.film is None else self.film.multiply_adds()
        return self.convolution.weight.numel() + self.mix.in_channels + film


class Gcn(AudioModel):
    """Gated convolutional network; with `film_block` GCNTF (Comunita, Steinmetz, Phan, Reiss 2022).

    arXiv 2211.00497, "Modelling black-box audio effects with time-varying feature modulation". Blocks of
    layers whose dilations 1, g, g^2, ... start anew in each block; all layers' z, side by side, are mixed
    into the output.

    GCNTF looks film_block - 1 samples ahead (127 as published), and `step` takes whole blocks, of which
    the last one of a recording may be shorter. The last layer's mix leads nowhere: it is counted among
    the parameters, as published, and never trained.
    """

    def __init__(
        self,
        blocks: int,
        layers: int,
        channels: int = 16,
        kernel: int = 3,
        growth: int = 2,
        film_block: int | None = None,
        sample_rate: int = 44100,
    ) -> None:
        """Sizes of the network.

        Args:
            blocks: of layers.
            layers: a block.
            channels: of every layer.
            kernel: taps of the convolutions.
            growth: of the dilation from layer to layer.
            film_block: samples that TFiLM scales alike; without it there is no TFiLM.
            sample_rate: in Hz.
        """
        super().__init__(sample_rate)
        self.block = 1 if film_block is None else film_block
        if min(blocks, layers, channels, kernel, growth, self.block) < 1:
            raise ConfigError(
                f"blocks {blocks}, layers {layers}, channels {channels}, kernel {kernel}, growth {growth} "
                f"and film_block {film_block} must be at least 1"
            )
        dilations = [growth**layer for _ in range(blocks) for layer in range(layers)]
        self.layers = nn.ModuleList(
            GatedLayer(channels if index else 1, channels, kernel, dilation, film_block)
            for index, dilation in enumerate(dilations)
        )
        self.out = nn.Conv1d(channels * len(dilations), 1, 1)
        self.untrained = [f"layers.{len(dilations) - 1}.mix.{part}" for part in ("weight", "bias")]
        self._parts = 1 if film_block is None else 3  # tensors of a layer's state

    def _layers(self) -> Iterable[GatedLayer]:
        return cast("Iterable[GatedLayer]", self.layers)

    def init_state(self, batch: int) -> State:
        """Samples heard [B], then every layer's own state."""
        begun = torch.zeros(batch, dtype=torch.int64, device=self.out.weight.device)
        return begun, *(part for layer in self._layers() for part in layer.init_state(batch))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As AudioModel; a T that is no multiple of `block` ends the last block early."""
        begun, *rest = state
        earliest = int(begun.min())
        place = begun[:, None] + torch.arange(x.shape[-1], device=x.device)
        flow = (x / self.input_level)[:, None]
        skips: list[Tensor] = []
        after: list[Tensor] = []
        for index, layer in enumerate(self._layers()):
            own = tuple(rest[self._parts * index : self._parts * (index + 1)])
            skip, own = layer(flow, place if earliest < layer.reach else None, own)
            skips.append(skip)
            after.extend(own)
            if index + 1 < len(self.layers):
                flow = layer.mix(skip) + flow
        y = self.out(torch.cat(skips, 1))[:, 0] * self.output_level
        return y, (begun + x.shape[-1], *after)

    def multiply_adds(self) -> int:
        """Of convolutions, gates, mixes, TFiLM and output; the unused last mix left out."""
        layers = list(self._layers())
        mixes = sum(layer.mix.weight.numel() for layer in layers[:-1])
        return round(sum(layer.multiply_adds() for layer in layers)) + mixes + self.out.weight.numel()
