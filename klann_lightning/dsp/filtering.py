"""One bank of state-variable filters, run three ways: scan, sampled, streaming.

`filter_scan` is exact and the default everywhere. `filter_sampled` is the paper's training path.
`filter_streaming` is the definition, sample by sample, that the other two are held against.
All take x [B, F, T] with filter f on channel f; states are [B, F, 2]. Derivations: docs/mathematics.md.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from klann_lightning.dsp.svf import SvfControls, response_on_circle, state_space_from_controls

BLOCK = 64  # samples a block of the scan


class BlockFilter(NamedTuple):
    """A bank of F filters unrolled over blocks of L samples, for row vectors of samples and states.

    With block inputs x [.., L] and the state s [.., 2] at the block's start:
      y = x @ toeplitz + s @ observe,   s' = s @ A^L + x @ inject
    """

    toeplitz: Tensor  # [F, L, L], toeplitz[j, t] = h[t - j] for t >= j
    observe: Tensor  # [F, 2, L], column t is (C A^t)^T
    inject: Tensor  # [F, L, 2], row j is (A^(L-1-j) B)^T
    powers: Tensor  # [F, L + 1, 2, 2], A^n transposed, float64

    def select(self, filters: slice) -> "BlockFilter":
        """The same for some of the filters."""
        return BlockFilter(*(part[filters] for part in self))


def unroll(controls: SvfControls, dtype: torch.dtype, block: int = BLOCK) -> BlockFilter:
    """Prepare controls [F] for `filter_scan`: computed in float64, samples' matrices cast to `dtype`.

    All that float32 then adds is the rounding of the products: -113 dB for a low-pass at 5 Hz,
    44.1 kHz, where the direct form in float32 is at -20 dB.
    """
    space = state_space_from_controls(controls)
    a = space.a.transpose(-1, -2)
    powers = torch.eye(2, dtype=a.dtype, device=a.device).expand(len(a), 1, 2, 2)
    step = a
    while powers.shape[1] <= block:  # A^0..A^(n-1), then A^n..A^(2n-1) from them
        powers = torch.cat([powers, powers @ step[:, None]], 1)
        step = step @ step
    powers = powers[:, : block + 1]
    observe = torch.einsum("ftij,fj->fit", powers[:, :block], space.c)
    inject = torch.einsum("fj,ftji->fti", space.b, powers[:, :block])
    impulse = torch.cat([space.d[:, None], torch.einsum("fi,fit->ft", space.b, observe[..., :-1])], 1)
    windows = functional.pad(impulse, (block, 0)).unfold(-1, block, 1)
    toeplitz = windows[:, 1:].flip(1)
    return BlockFilter(toeplitz.to(dtype), observe.to(dtype), inject.flip(1).to(dtype), powers)


def block_states(entering: Tensor, transition: Tensor, state: Tensor) -> Tensor:
    """The state at every block's start and after the last: [B, F, K, 2] -> [B, F, K + 1, 2].

    `entering` v_k is what a block's samples leave in the state, `state` [B, F, 2] stands before the first.
    s_(k+1) = s_k M + v_k, by doubling: after step i every entry holds the last 2^i terms of its sum,
    so K blocks take log2(K) products instead of K. `transition` M is [F, 2, 2] in float64; its powers
    are taken there and only then cast.
    """
    states = torch.cat([state[:, :, None], entering], 2)
    reach = 1
    while reach < states.shape[2]:
        carried = states[:, :, :-reach] @ transition.to(states.dtype)
        states = torch.cat([states[:, :, :reach], states[:, :, reach:] + carried], 2)
        transition = transition @ transition
        reach *= 2
    return states


def filter_scan(x: Tensor, unrolled: BlockFilter, state: Tensor) -> tuple[Tensor, Tensor]:
    """Filter exactly, in parallel over time: x [B, F, T], state [B, F, 2] -> (y [B, F, T], state after).

    Each block is a product with a Toeplitz matrix, and the blocks' states are found by doubling (Hillis and
    Steele 1986, Data parallel algorithms). Any T. Differentiable twice in x, state and controls. Equal for
    any split of x into calls, up to rounding: about -130 dB in float32, -290 dB in float64.
    """
    size = unrolled.toeplitz.shape[-1]
    blocks, rest = divmod(x.shape[-1], size)
    outputs = []
    if blocks:
        head = x[..., : blocks * size].unflatten(-1, (blocks, size))
        states = block_states(head @ unrolled.inject, unrolled.powers[:, size], state)
        output = head @ unrolled.toeplitz + states[:, :, :-1] @ unrolled.observe
        outputs.append(output.flatten(-2))
        state = states[:, :, -1]
    if rest:
        tail, row = x[..., None, blocks * size :], state[:, :, None]
        output = tail @ unrolled.toeplitz[:, :rest, :rest] + row @ unrolled.observe[..., :rest]
        row = row @ unrolled.powers[:, rest].to(row.dtype) + tail @ unrolled.inject[:, size - rest :]
        outputs.append(output.flatten(-2))
        state = row[:, :, 0]
    return (torch.cat(outputs, -1) if outputs else x), state


def filter_sampled(x: Tensor, controls: SvfControls, n_fft: int = 65536) -> Tensor:
    """Filter on an FFT grid, as in the paper (Huhtala et al. 2024): [B, F, T] -> [B, F, T], from zero state.

    Blocks of n_fft / 2 samples, overlap-add. Approximate: the impulse response wraps round after
    `n_fft` samples, an error of about |pole| ** (n_fft / 2), so slow filters are wrong: at 44.1 kHz
    those with time constants above some 0.1 s. Precision: H is computed in float64 and then cast; all in
    float32 the error of a 20 Hz low-pass at 44.1 kHz is -41 dB, this way it is -134 dB.
    """
    hop, samples = n_fft // 2, x.shape[-1]
    omega = torch.linspace(0, torch.pi, hop + 1, dtype=torch.float64, device=x.device)
    response = response_on_circle(controls, omega)
    response = response.to(torch.complex64 if x.dtype == torch.float32 else torch.complex128)
    blocks = -(-samples // hop)
    framed = functional.pad(x, (0, blocks * hop - samples)).unflatten(-1, (blocks, hop))
    filtered = torch.fft.irfft(torch.fft.rfft(framed, n_fft) * response[:, None], n_fft)
    first, second = filtered.split(hop, -1)
    overlapped = first + functional.pad(second, (0, 0, 1, -1))
    return overlapped.flatten(-2)[..., :samples]


def filter_streaming(x: Tensor, controls: SvfControls, state: Tensor) -> tuple[Tensor, Tensor]:
    """Filter sample by sample: x [B, F, T], state [B, F, 2] -> (y, state after).

    The recursion as `state_space_from_controls` writes it (Zavalishin, The Art of VA Filter Design, chapter
    4): slow, and the plain twin of the scan. Blocks of any size give the same samples to the bit.
    """
    g, r, mix = (part.to(x.dtype) for part in controls)
    m_lp, m_bp, m_hp = mix.unbind(-1)
    e = (1 / (1 + 2 * controls.r * controls.g + controls.g**2)).to(x.dtype)
    s1, s2 = state.unbind(-1)
    outputs = []
    for sample in x.unbind(-1):
        bp = e * (g * sample + s1 - g * s2)
        lp = s2 + g * bp
        hp = sample - 2 * r * bp - lp
        outputs.append(m_hp * hp + m_bp * bp + m_lp * lp)
        s1, s2 = 2 * bp - s1, 2 * lp - s2
    return (torch.stack(outputs, -1) if outputs else x), torch.stack([s1, s2], -1)
