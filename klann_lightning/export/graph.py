"""A KLANN's document as an ONNX graph: samples and states in, samples and states out, of any length.

Filters run as in `filter_scan`: within blocks by matrices, from block to block by a Scan of their two states,
which are kept in 64 bit. Written operation by operation, with nothing of torch's own exporter.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from klann_lightning import __version__
from klann_lightning.dsp.filtering import unroll
from klann_lightning.dsp.svf import SvfControls
from klann_lightning.export.document import width_of

OPSET, IR = 17, 8
BLOCK = 64  # samples that a block's matrices are for
FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
Shape = Sequence[str | int | None]

SOUND: Shape = ["batch", "time"]


def step_graph(content: Mapping[str, Any]) -> onnx.ModelProto:
    """x [B, T], state [B, filters, 2] -> y [B, T], next_state; T of any length but 0."""
    graph = _Graph(content)
    shape: Shape = ["batch", len(content["filters"]), 2]
    inputs = {"x": (FLOAT, SOUND), "state": (DOUBLE, shape)}
    return graph.model("klann_step", inputs, {"y": (FLOAT, SOUND), "next_state": (DOUBLE, shape)})


def whole_graph(content: Mapping[str, Any]) -> onnx.ModelProto:
    """x [B, T] -> y [B, T], from the model's own first states on."""
    graph = _Graph(content)
    return graph.model("klann", {"x": (FLOAT, SOUND)}, {"y": (FLOAT, SOUND)}, graph.start())


def first_state(content: Mapping[str, Any]) -> NDArray[np.float64]:
    """What a step graph is given before the first sample: [1, filters, 2]."""
    return np.array([[one["state"] for one in content["filters"]]], dtype=np.float64)


class _Graph:
    """Nodes and constants, and which value holds which plane."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._planes: list[tuple[str, int]] = []  # of each, the value and the channel in it
        self._widths: dict[str, int] = {}
        self._after: dict[int, str] = {}  # each filter's last state, [B, 1, 2]
        self._lengths()
        level = self._constant("input_level", np.float32(content["input_level"]))
        self._holds(self._one("Unsqueeze", self._one("Div", "x", level), "one"), 1)
        for group in _groups(content["operations"]):
            if group[0]["kind"] == "filter":
                self._bank([one["inputs"][0] for one in group], [one["filter"] for one in group])
            else:
                self._layer(group[0])
        y = self._one("Squeeze", self._read([len(self._planes) - 1]), "one")
        level = self._constant("output_level", np.float32(content["output_level"]))
        self._nodes.append(helper.make_node("Mul", [y, level], ["y"]))
        states = [self._after[index] for index in range(len(self._after))]
        self._nodes.append(helper.make_node("Concat", states, ["next_state"], axis=1))

    def start(self) -> list[onnx.NodeProto]:
        """Nodes that make the first state of every row."""
        self._constant("first_state", first_state(self._content))
        self._constant("no_more", np.array([1, 1], np.int64))
        return [
            helper.make_node("Shape", ["x"], ["rows"], end=1),
            helper.make_node("Concat", ["rows", "no_more"], ["times"], axis=0),
            helper.make_node("Tile", ["first_state", "times"], ["state"]),
        ]

    def model(
        self,
        name: str,
        inputs: Mapping[str, tuple[int, Shape]],
        outputs: Mapping[str, tuple[int, Shape]],
        before: Sequence[onnx.NodeProto] = (),
    ) -> onnx.ModelProto:
        """Checked; what leads to no output is left out."""
        nodes = [*before, *self._nodes]
        if "next_state" not in outputs:
            nodes = _leading_to(nodes, list(outputs))
        used = {value for node in nodes for value in node.input}
        given, made_of = (
            [helper.make_tensor_value_info(value, *kind) for value, kind in each.items()]
            for each in (inputs, outputs)
        )
        constants = [
            numpy_helper.from_array(value, key) for key, value in self._constants.items() if key in used
        ]
        graph = helper.make_graph(nodes, name, given, made_of, constants)
        opsets = [helper.make_opsetid("", OPSET)]
        made = helper.make_model(graph, opset_imports=opsets, producer_name="klann_lightning", ir_version=IR)
        made.producer_version = __version__
        helper.set_model_props(made, {"sample_rate": str(self._content["sample_rate"])})
        onnx.checker.check_model(made, full_check=True)
        return made

    def _lengths(self) -> None:
        """How the time axis [.., T] is divided into blocks, and how much of the last one is sound."""
        for name, number in (("zero", 0), ("one", 1), ("two", 2), ("minus_one", -1)):
            self._constant(name, np.array([number], np.int64))
        self._constant("size", np.array([BLOCK], np.int64))
        self._constant("as_blocks", np.array([0, 0, -1, BLOCK], np.int64))
        self._constant("joined", np.array([0, 0, -1], np.int64))
        self._constant("five_zeros", np.zeros(5, np.int64))
        nodes = [
            ("Shape", ["x"], "shape"),
            ("Slice", ["shape", "one", "two"], "length"),
            ("Sub", ["length", "one"], "length_less"),
            ("Div", ["length_less", "size"], "full"),  # blocks before the last one
            ("Mul", ["full", "size"], "full_length"),
            ("Sub", ["length", "full_length"], "left"),  # samples of the last block, 1 to BLOCK
            ("Sub", ["size", "left"], "skipped"),
            ("Add", ["skipped", "size"], "skipped_end"),
            ("Concat", ["five_zeros", "skipped"], "padding"),
        ]
        for kind, inputs, output in nodes:
            attributes: dict[str, Any] = {"axis": 0} if kind == "Concat" else {}
            self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    def _value(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """A node; the names of what it gives."""
        names = [f"{kind.lower()}_{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def _one(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self._value(kind, *inputs, **attributes)[0]

    def _constant(self, name: str, value: Any) -> str:
        self._constants.setdefault(name, np.asarray(value))
        return name

    def _holds(self, name: str, width: int) -> None:
        """The next planes are those of a value [B, width, T]."""
        self._widths[name] = width
        self._planes += [(name, channel) for channel in range(width)]

    def _read(self, inputs: Sequence[int]) -> str:
        """Planes as one value [B, inputs, T]."""
        parts: list[tuple[str, list[int]]] = []
        for plane in inputs:
            name, channel = self._planes[plane]
            if parts and parts[-1][0] == name:
                parts[-1][1].append(channel)
            else:
                parts.append((name, [channel]))
        values = []
        for name, channels in parts:
            if channels != list(range(self._widths[name])):
                key = "channels_" + "_".join(map(str, channels))
                name = self._one("Gather", name, self._constant(key, np.array(channels, np.int64)), axis=1)
            values.append(name)
        return values[0] if len(values) == 1 else self._one("Concat", *values, axis=1)

    def _layer(self, operation: Mapping[str, Any]) -> None:
        place = len(self._nodes)
        weight = self._constant(f"weight_{place}", np.array(operation["weight"], np.float32))
        bias = self._constant(f"bias_{place}", np.array(operation["bias"], np.float32)[:, None])
        y = self._one("Add", self._one("MatMul", weight, self._read(operation["inputs"])), bias)
        if operation["kind"] == "gated":
            value, gate = self._value("Split", y, outputs=2, axis=1)
            y = self._one("Mul", value, self._one("Sigmoid", gate))
        self._holds(y, width_of(operation))

    def _bank(self, planes: Sequence[int], filters: Sequence[int]) -> None:
        """Filters side by side, each over its plane."""
        name = f"filter_{filters[0]}_"
        table = {
            key: self._constant(name + key, value) for key, value in _tables(self._content, filters).items()
        }
        padded = self._one("Pad", self._read(planes), "padding")
        x = self._one("Reshape", padded, "as_blocks")  # [B, F, K, BLOCK]
        exact = self._one("Cast", x, to=DOUBLE)
        before = self._one("Gather", "state", table["places"], axis=1)
        entering = self._one("MatMul", exact, table["inject"])  # [B, F, K, 2]
        body = _leap(self._constants.pop(table["leap"]), name)
        along = {"num_scan_inputs": 1, "scan_input_axes": [2], "scan_output_axes": [2]}
        _, seen = self._value(
            "Scan", before, entering, outputs=2, body=body, **along
        )  # at each block's start
        inside = self._one("MatMul", x, table["toeplitz"])
        carried = self._one("MatMul", self._one("Cast", seen, to=FLOAT), table["observe"])
        whole = self._one("Reshape", self._one("Add", inside, carried), "joined")
        self._holds(self._one("Slice", whole, "zero", "length", "two"), len(filters))
        inject = self._one("Slice", table["inject_rest"], "skipped", "skipped_end", "one")
        leap = self._one("Squeeze", self._one("Gather", table["powers"], "left", axis=0), "zero")
        start, tail = (
            self._one("Gather", part, "minus_one", axis=2) for part in (seen, exact)
        )  # [B, F, 1, ..]
        last = self._one("Add", self._one("MatMul", start, leap), self._one("MatMul", tail, inject))
        after = self._one("Squeeze", last, "two")  # [B, F, 2]
        for place, index in enumerate(filters):
            at = self._constant(f"place_{place}", np.array([place], np.int64))
            self._after[index] = self._one("Gather", after, at, axis=1)


def _tables(content: Mapping[str, Any], filters: Sequence[int]) -> dict[str, NDArray[Any]]:
    """What `unroll` gives for some of the filters; `inject_rest` also where a block is cut off."""
    told = [content["filters"][index] for index in filters]
    cutoff, damping, mix = (
        torch.tensor([one[name] for one in told], dtype=torch.float64)
        for name in ("cutoff_hz", "damping", "mix")
    )
    g = torch.tan(torch.pi * cutoff / content["sample_rate"])
    unrolled = unroll(SvfControls(g, damping, mix), torch.float64, BLOCK)
    inject, powers = unrolled.inject.numpy(), unrolled.powers.numpy()
    return {
        "toeplitz": unrolled.toeplitz.numpy().astype(np.float32),
        "observe": unrolled.observe.numpy().astype(np.float32),
        "inject": inject,
        "inject_rest": np.concatenate([inject, np.zeros_like(inject)], 1),  # read from BLOCK - left on
        "leap": powers[:, BLOCK],
        "powers": powers.transpose(1, 0, 2, 3),
        "places": np.array(filters, np.int64),
    }


def _leap(leap: NDArray[np.float64], name: str) -> onnx.GraphProto:
    """From block to block: s -> s A^BLOCK + what enters; and s, as it was."""
    shape: Shape = ["batch", len(leap), 2]
    body = [
        helper.make_node("Unsqueeze", [name + "s", name + "axis"], [name + "row"]),
        helper.make_node("MatMul", [name + "row", name + "leap"], [name + "moved"]),
        helper.make_node("Squeeze", [name + "moved", name + "axis"], [name + "flat"]),
        helper.make_node("Add", [name + "flat", name + "e"], [name + "next"]),
        helper.make_node("Identity", [name + "s"], [name + "seen"]),
    ]
    values = [
        helper.make_tensor_value_info(name + part, DOUBLE, shape) for part in ("s", "e", "next", "seen")
    ]
    own = {"leap": leap, "axis": np.array([2], np.int64)}
    constants = [numpy_helper.from_array(value, name + key) for key, value in own.items()]
    return helper.make_graph(body, name + "leap", values[:2], values[2:], constants)


def _groups(operations: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Operations in their order; filters that read none of each other together."""
    group: list[Mapping[str, Any]] = []
    written: list[int] = []  # planes of the group
    planes = 1
    for one in operations:
        aside = one["kind"] == "filter" and not set(one["inputs"]) & set(written)
        if group and not (aside and group[0]["kind"] == "filter"):
            yield group
            group, written = [], []
        group.append(one)
        width = width_of(one)
        written += range(planes, planes + width)
        planes += width
    yield group


def _leading_to(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that something of the outputs depends on."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= set(node.input)
    return kept[::-1]
