"""What every model of an audio device can do, whatever is inside."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from klann_lightning.errors import ConfigError

PLAYED_AT_ONCE = 2**17  # samples of a recording
# What a model remembers between blocks; the batch is every tensor's first dimension.
State = tuple[Tensor, ...]


class AudioModel(nn.Module, ABC):
    """A mono-to-mono model, [B, T] -> [B, T], that can stop after any `block` samples and go on.

    An output sample is heard once its block is whole; with a block of one sample the model is causal.

    The levels are the RMS of the training input and target: the network inside works at unit level, and
    they travel with the checkpoint. At 1 the model works on samples as they are.
    """

    input_level: Tensor
    output_level: Tensor
    block: int = 1  # samples that the model works on at a time
    delay: int = 0  # samples that its output is late by
    untrained: Sequence[str] = ()  # names of parameters that no output depends on

    def __init__(self, sample_rate: int = 44100) -> None:
        """`sample_rate` in Hz is the rate that the model is trained at and meant for."""
        super().__init__()
        self.sample_rate = sample_rate
        self.register_buffer("input_level", torch.ones(()))
        self.register_buffer("output_level", torch.ones(()))

    def set_levels(self, input_level: float, output_level: float) -> None:
        """Take the RMS of the training input and target as unit level."""
        self.input_level.fill_(input_level)
        self.output_level.fill_(output_level)

    def restart(self) -> None:
        """Take new random parameters, as a new model has them: every part's own `reset_parameters`."""
        for part in self.modules():
            if callable(reset := getattr(part, "reset_parameters", None)):
                reset()

    @abstractmethod
    def init_state(self, batch: int) -> State:
        """The state before the first sample, after endless silence of the filters."""

    @property
    def look_ahead(self) -> int:
        """The most samples after its own that an output sample depends on."""
        return self.block - 1

    @abstractmethod
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Go on from `state`: x [B, T] of any number of whole blocks -> (y [B, T], state after).

        The last block of the audio may be shorter.
        """

    def parameter_count(self) -> int:
        """Of all that is trained."""
        return sum(part.numel() for part in self.parameters() if part.requires_grad)

    def multiply_adds(self) -> int:
        """Multiply-adds per sample of the streaming form, `step`; activation functions are not among them."""
        raise ConfigError(f"{type(self).__name__} does not say what a sample costs: give it multiply_adds")

    def forward(self, x: Tensor) -> Tensor:
        """From the initial state, exactly: [B, T] -> [B, T]."""
        return self.step(x, self.init_state(len(x)))[0]

    def advance(self, x: Tensor, fresh: Sequence[bool], state: State | None) -> tuple[Tensor, State]:
        """As `step`, but rows marked in fresh [B] start from the initial state, as all do without a state.

        Of no samples nothing is heard, and nothing is remembered of them.
        """
        if state is None or all(fresh):
            state = self.init_state(len(x))
        elif any(fresh):
            rows = zip(self.init_state(1), state, strict=True)
            state = tuple(
                torch.cat([new if anew else old[row : row + 1] for row, anew in enumerate(fresh)])
                for new, old in rows
            )
        return self.step(x, state) if x.numel() else (x, state)

    @torch.no_grad()
    def play(self, blocks: Iterable[Tensor]) -> Iterator[Tensor]:
        """The output of consecutive blocks [B, T], of any size, from the initial state on.

        As many blocks come out as go in, if the model's own `block` is one sample; else what is whole.
        """
        state = None
        for part in blocks if self.block == 1 else _in_multiples(blocks, self.block):
            output, state = self.advance(part, [state is None] * len(part), state)
            yield output

    def play_whole(self, x: Tensor) -> Tensor:
        """The output of a recording [T] -> [T], from the initial state on, in blocks of bounded memory."""
        return torch.cat(list(self.play(x[None].split(PLAYED_AT_ONCE, -1))), -1)[0]

    def filter_responses(self, frequencies_hz: Tensor) -> tuple[list[str], Tensor] | None:
        """Labels and magnitude responses in dB [F, N] at frequencies [N], if the model has linear filters."""
        return None

    def forward_sampled(self, x: Tensor) -> Tensor:
        """By the paper's approximate training path, from zero state: [B, T] -> [B, T]."""
        raise ConfigError(
            f"{type(self).__name__} has no filters to sample; set model.train_path to scan for it"
        )


def _in_multiples(blocks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same audio [B, T] in parts of whole multiples of `size`, each as soon as it is there, and the rest.

    >>> [part.shape[-1] for part in _in_multiples(torch.zeros(1, 10).split(3, -1), 4)]
    [4, 4, 2]
    """
    waiting: Tensor | None = None
    for block in blocks:
        joined = block if waiting is None else torch.cat([waiting, block], -1)
        whole = joined.shape[-1] // size * size
        waiting = joined[:, whole:]
        if whole:
            yield joined[:, :whole]
    if waiting is not None and waiting.numel():
        yield waiting
