"""The encoder as an ONNX graph, operator by operator.

Inputs: `power`, mel power [B, T, F] of the conformer's windows, and `seen` [B, 2], the first frame
of each that is looked at and the first one behind them; `contrast`, local contrast [C, T, F] of
segments. Outputs: `conformed` [B, E], unit vectors; `projected` [C, E], vectors of any length;
`fingerprint`, what `model.parts.mixed` makes of the rows that both have. An encoder without a
projection, or without a conformer, has its own inputs and `fingerprint` alone. B and C may be 0.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import TensorProto, helper, numpy_helper

from confp_jax.config import ModelConfig
from confp_jax.model.parts import pooling_weights

OPSET = 18
_IR_VERSION = 9  # what ONNX Runtime 1.16 and onnxruntime-web of the same age read
_EPSILON = 1e-5  # of LayerNorm and BatchNorm
_TINY = 1e-20  # keeps digital silence finite
_LEAST_NORM = 1e-12
_LARGE = 4096  # values: smaller arrays are stored as float32


def encoder_model(
    config: ModelConfig,
    params: Mapping[Any, Any],
    statistics: Mapping[Any, Any],
    *,
    is_compact: bool = True,
) -> onnx.ModelProto:
    """Returns the graph of an encoder, from nested mappings of its arrays (`nnx.to_pure_dict`).

    With `is_compact` large arrays are stored as float16 where that changes no value.
    """
    graph = _Graph(is_compact)
    encoder = config.encoder
    dim = encoder.embedding_dim
    if not encoder.has_projection:
        conformed = _conformer(graph, config, params, statistics)
        graph.output("fingerprint", conformed, ("B", dim))
        return graph.model()
    if not encoder.has_conformer:
        projected = _projection(graph, config, params["projection"])
        graph.output("fingerprint", _unit(graph, projected), ("C", dim))
        return graph.model()
    conformed = _conformer(graph, config, params, statistics)
    projected = _projection(graph, config, params["projection"])
    graph.output("conformed", conformed, ("B", dim))
    graph.output("projected", projected, ("C", dim))
    graph.output("fingerprint", _both(graph, config, projected, conformed), ("D", dim))
    return graph.model()


class _Graph:
    """Collects operators, weights, inputs and outputs."""

    def __init__(self, is_compact: bool) -> None:
        self._is_compact = is_compact
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[bytes, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: tuple[str | int, ...], kind: int = TensorProto.FLOAT) -> str:
        """Declares an input."""
        self._inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, name: str, value: str, shape: tuple[str | int | None, ...]) -> None:
        """Declares a value as an output."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def op(self, kind: str, *inputs: Any, outputs: int = 1, **attributes: Any) -> Any:
        """Adds an operator and returns the name of its result, a list of `outputs` names if there
        are several. Inputs are names or numbers.
        """
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        number = len(self._nodes)
        found = [f"{kind}_{number}_{place}" for place in range(outputs)]
        self._nodes.append(helper.make_node(kind, names, found, f"{kind}_{number}", **attributes))
        return found if outputs > 1 else found[0]

    def constant(self, value: Any) -> str:
        """Stores a number or an array; Python's are float32 or int64."""
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        key = f"{array.dtype}{array.shape}".encode() + array.tobytes()
        if key not in self._weights:
            self._weights[key] = numpy_helper.from_array(array, f"constant_{len(self._weights)}")
        return self._weights[key].name

    def weights(self, value: Any, factor: float = 1.0) -> str:
        """Stores an array of the encoder, times a factor."""
        array = np.asarray(value, np.float32)
        half = array.astype(np.float16)
        is_same = self._is_compact and np.array_equal(half.astype(np.float32), array)
        if array.size < _LARGE or not is_same:
            return self.constant(np.ascontiguousarray(factor * array))
        stored = self.op("Cast", self.constant(np.ascontiguousarray(half)), to=TensorProto.FLOAT)
        return stored if factor == 1 else self.op("Mul", stored, factor)

    def model(self) -> onnx.ModelProto:
        """Returns what was collected, checked."""
        graph = helper.make_graph(
            self._nodes, "encoder", self._inputs, self._outputs, list(self._weights.values())
        )
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, producer_name="confp_jax")
        model.ir_version = _IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model


def _conformer(
    graph: _Graph, config: ModelConfig, params: Mapping[Any, Any], statistics: Mapping[Any, Any]
) -> str:
    encoder = config.encoder
    mel = config.mel
    num_frames = mel.num_frames(config.audio.context_samples)
    tokens = config.num_tokens
    width = encoder.frames_per_token * mel.num_mels
    x = _log_mel(graph, num_frames, mel.num_mels, mel.floor)
    if tokens * encoder.frames_per_token < num_frames:
        x = graph.op("Slice", x, [0], [tokens * encoder.frames_per_token], [1])
    x = _linear(graph, graph.op("Reshape", x, [-1, width]), params["input"])
    for number in range(encoder.num_layers):
        means = statistics.get("layers", {}).get(number, {})
        x = _block(graph, x, params["layers"][number], means, (tokens, encoder.num_heads))
    x = graph.op("Reshape", x, [-1, tokens, encoder.dim])
    pooled = graph.op("MatMul", pooling_weights(tokens, encoder.pool_segments), x)
    pooled = graph.op("Reshape", pooled, [0, encoder.pool_segments * encoder.dim])
    return _unit(graph, _linear(graph, pooled, params["output"]))


def _log_mel(graph: _Graph, num_frames: int, num_mels: int, floor: float) -> str:
    """`model.features.log_mel`."""
    power = graph.input("power", ("B", num_frames, num_mels))
    seen = graph.input("seen", ("B", 2), TensorProto.INT32)
    first, last = graph.op("Split", seen, outputs=2, axis=1, num_outputs=2)
    place = np.arange(num_frames, dtype=np.int32)
    inside = graph.op(
        "And", graph.op("GreaterOrEqual", place, first), graph.op("Less", place, last)
    )
    mask = graph.op("Cast", graph.op("Unsqueeze", inside, [2]), to=TensorProto.FLOAT)
    count = graph.op("Mul", graph.op("ReduceSum", mask, [1, 2], keepdims=1), float(num_mels))

    def mean(masked: str, kind: str = "ReduceSum") -> str:
        return graph.op("Div", graph.op(kind, masked, [1, 2], keepdims=1), count)

    loudness = graph.op("Max", mean(graph.op("Mul", power, mask)), _TINY)
    relative = graph.op("Mul", power, graph.op("Reciprocal", loudness))
    logarithm = graph.op("Mul", graph.op("Log", graph.op("Add", relative, floor)), mask)
    centred = graph.op("Sub", logarithm, graph.op("Mul", mean(logarithm), mask))
    variance = graph.op("Add", mean(centred, "ReduceSumSquare"), _EPSILON)
    return graph.op("Mul", centred, graph.op("Reciprocal", graph.op("Sqrt", variance)))


def _block(
    graph: _Graph,
    x: str,
    params: Mapping[Any, Any],
    statistics: Mapping[Any, Any],
    sizes: tuple[int, int],
) -> str:
    """`model.conformer.ConformerBlock`; `sizes`: tokens and heads."""

    def feed_forward(x: str, params: Mapping[Any, Any]) -> str:
        inner = _silu(graph, _linear(graph, _norm(graph, x, params["norm"]), params["inner"]))
        return _linear(graph, inner, params["outer"], factor=0.5)

    x = graph.op("Add", x, feed_forward(x, params["feed_forward_1"]))
    x = graph.op("Add", x, _attention(graph, x, params["attention"], sizes))
    means = statistics.get("convolution", {}).get("batch_norm")
    x = graph.op("Add", x, _convolution(graph, x, params["convolution"], means, sizes[0]))
    x = graph.op("Add", x, feed_forward(x, params["feed_forward_2"]))
    return _norm(graph, x, params["norm"])


def _attention(graph: _Graph, x: str, params: Mapping[Any, Any], sizes: tuple[int, int]) -> str:
    tokens, heads = sizes
    dim = np.shape(params["outer"]["kernel"])[0]
    normed = _norm(graph, x, params["norm"])

    def part(number: int, order: list[int]) -> str:
        value = _linear(graph, normed, _columns(params["qkv"], number, of=3))
        by_head = graph.op("Reshape", value, [-1, tokens, heads, dim // heads])
        return graph.op("Transpose", by_head, perm=order)

    query = graph.op("Mul", part(0, [0, 2, 1, 3]), 1 / math.sqrt(dim // heads))
    scores = graph.op("MatMul", query, part(1, [0, 2, 3, 1]))
    mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), part(2, [0, 2, 1, 3]))
    rows = graph.op("Transpose", mixed, perm=[0, 2, 1, 3])
    return _linear(graph, graph.op("Reshape", rows, [-1, dim]), params["outer"])


def _convolution(
    graph: _Graph,
    x: str,
    params: Mapping[Any, Any],
    statistics: Mapping[Any, Any] | None,
    tokens: int,
) -> str:
    normed = _norm(graph, x, params["norm"])
    value, gate = (
        _linear(graph, normed, _columns(params["inner"], number, of=2)) for number in range(2)
    )
    x = graph.op("Mul", value, graph.op("Sigmoid", gate))
    kernel = np.asarray(params["depthwise_kernel"], np.float32)
    bias = np.asarray(params["depthwise_bias"], np.float32)
    if statistics is not None:  # BatchNorm with running statistics is a factor and a summand
        norm = params["batch_norm"]
        factor = np.asarray(norm["scale"]) / np.sqrt(np.asarray(statistics["var"]) + _EPSILON)
        kernel = kernel * factor
        bias = (bias - np.asarray(statistics["mean"])) * factor + np.asarray(norm["bias"])
    x = _depthwise(graph, x, kernel, bias, tokens)
    if statistics is None:
        x = _norm(graph, x, params["layer_norm"])
    return _linear(graph, _silu(graph, x), params["outer"])


def _depthwise(
    graph: _Graph,
    x: str,
    kernel: Float32[np.ndarray, "K D"],
    bias: Float32[np.ndarray, " D"],
    tokens: int,
) -> str:
    """Returns a convolution over images one token wide: for these ONNX Runtime has fast kernels."""
    size, dim = kernel.shape
    images = graph.op("Reshape", x, [-1, tokens, 1, dim])
    convolved = graph.op(
        "Conv",
        graph.op("Transpose", images, perm=[0, 3, 1, 2]),
        np.ascontiguousarray(kernel.T[:, None, :, None]),
        bias,
        group=dim,
        pads=[size // 2, 0, size // 2, 0],
        kernel_shape=[size, 1],
    )
    return graph.op("Reshape", graph.op("Transpose", convolved, perm=[0, 2, 3, 1]), [-1, dim])


def _projection(graph: _Graph, config: ModelConfig, params: Mapping[Any, Any]) -> str:
    """`model.projection.Projection`."""
    projection = config.encoder.projection
    frames = projection.num_frames
    mels = projection.mel.num_mels
    contrast = graph.input("contrast", ("C", frames, mels))
    mean = graph.op("ReduceMean", contrast, [1, 2], keepdims=1)
    rows = graph.op("Reshape", graph.op("Sub", contrast, mean), [0, frames * mels])
    return _linear(graph, rows, params)


def _both(graph: _Graph, config: ModelConfig, projected: str, conformed: str) -> str:
    """`model.parts.mixed` of as many rows as both have; zero where the projection is zero."""
    share = config.encoder.projection.share

    def num_rows(value: str) -> str:
        return graph.op("Shape", value, start=0, end=1)

    num = graph.op("Min", num_rows(projected), num_rows(conformed))
    projected = graph.op("Slice", projected, [0], num, [0])
    conformed = graph.op("Slice", conformed, [0], num, [0])
    total = graph.op(
        "Add",
        graph.op("Mul", _unit(graph, projected), math.sqrt(share)),
        graph.op("Mul", _unit(graph, conformed), math.sqrt(1 - share)),
    )
    largest = graph.op("ReduceMax", graph.op("Abs", projected), [1], keepdims=1)
    heard = graph.op("Cast", graph.op("Greater", largest, 0.0), to=TensorProto.FLOAT)
    return graph.op("Mul", _unit(graph, total), heard)


def _linear(graph: _Graph, x: str, params: Mapping[Any, Any], factor: float = 1.0) -> str:
    kernel, bias = (graph.weights(params[name], factor) for name in ("kernel", "bias"))
    return graph.op("Gemm", x, kernel, bias)


def _columns(params: Mapping[Any, Any], number: int, of: int) -> dict[str, np.ndarray]:
    """Returns one of several matrices that lie side by side: separate products need no copies."""
    return {name: np.split(np.asarray(params[name]), of, -1)[number] for name in ("kernel", "bias")}


def _norm(graph: _Graph, x: str, params: Mapping[Any, Any]) -> str:
    scale = graph.weights(params["scale"])
    bias = graph.weights(params["bias"])
    return graph.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=_EPSILON)


def _silu(graph: _Graph, x: str) -> str:
    return graph.op("Mul", x, graph.op("Sigmoid", x))


def _unit(graph: _Graph, x: str) -> str:
    """Returns rows of length 1; zero stays zero."""
    length = graph.op("Sqrt", graph.op("ReduceSum", graph.op("Mul", x, x), [1], keepdims=1))
    return graph.op("Div", x, graph.op("Max", length, _LEAST_NORM))
