"""The recurrent baseline: one LSTM layer (Wright, Damskagg, Valimaki 2019; Comunita et al. 2022)."""

from torch import Tensor, nn

from klann_lightning.errors import ConfigError
from klann_lightning.models.base import AudioModel, State


class Lstm(AudioModel):
    """y = w h + b + x, where h is the state of an LSTM that hears x. No look-ahead."""

    def __init__(self, hidden: int, sample_rate: int = 44100) -> None:
        """`hidden` is the size of the LSTM's state, `sample_rate` in Hz."""
        super().__init__(sample_rate)
        if hidden < 1:
            raise ConfigError(f"hidden must be at least 1, not {hidden}")
        self.lstm = nn.LSTM(1, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 1)

    def init_state(self, batch: int) -> State:
        """Hidden and cell state, [B, hidden] each."""
        return tuple(self.out.weight.new_zeros(2, batch, self.lstm.hidden_size))

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """As AudioModel, any T: x [B, T], state of two [B, hidden] -> (y [B, T], state after)."""
        scaled = (x / self.input_level)[..., None]
        recurrent = tuple(part[None].contiguous() for part in state)
        heard, after = self.lstm(scaled, recurrent)
        y = (self.out(heard) + scaled)[..., 0] * self.output_level
        return y, tuple(part[0] for part in after)

    def multiply_adds(self) -> int:
        """One a weight, and three a state for the gates."""
        weights = [part for name, part in self.named_parameters() if "weight" in name]
        return sum(part.numel() for part in weights) + 3 * self.lstm.hidden_size
