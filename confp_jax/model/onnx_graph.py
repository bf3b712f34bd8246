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
    graph, encoder = _Graph(is_compact), config.encoder
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

    def weights(self, value: Any) -> str:
        """Stores an array of the encoder."""
        array = np.asarray(value, np.float32)
        half = array.astype(np.float16)
        is_same = self._is_compact and np.array_equal(half.astype(np.float32), array)
        if array.size < _LARGE or not is_same:
            return self.constant(array)
        return self.op("Cast", self.constant(half), to=TensorProto.FLOAT)

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
    encoder, mel = config.encoder, config.mel
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

    def mean(values: str) -> str:
        total = graph.op("ReduceSum", graph.op("Mul", values, mask), [1, 2], keepdims=1)
        return graph.op("Div", total, count)

    relative = graph.op("Div", power, graph.op("Max", mean(power), _TINY))
    logarithm = graph.op("Log", graph.op("Add", relative, floor))
    centred = graph.op("Mul", graph.op("Sub", logarithm, mean(logarithm)), mask)
    variance = graph.op("Add", mean(graph.op("Mul", centred, centred)), _EPSILON)
    return graph.op("Div", centred, graph.op("Sqrt", variance))


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
        return graph.op("Mul", _linear(graph, inner, params["outer"]), 0.5)

    x = graph.op("Add", x, feed_forward(x, params["feed_forward_1"]))
    x = graph.op("Add", x, _attention(graph, x, params["attention"], sizes))
    means = statistics.get("convolution", {}).get("batch_norm")
    x = graph.op("Add", x, _convolution(graph, x, params["convolution"], means, sizes[0]))
    x = graph.op("Add", x, feed_forward(x, params["feed_forward_2"]))
    return _norm(graph, x, params["norm"])


def _attention(graph: _Graph, x: str, params: Mapping[Any, Any], sizes: tuple[int, int]) -> str:
    tokens, heads = sizes
    dim = np.shape(params["outer"]["kernel"])[0]
    qkv = _linear(graph, _norm(graph, x, params["norm"]), params["qkv"])

    def split(value: str, order: list[int]) -> str:
        by_head = graph.op("Reshape", value, [-1, tokens, heads, dim // heads])
        return graph.op("Transpose", by_head, perm=order)

    query, keys, values = graph.op("Split", qkv, outputs=3, axis=-1, num_outputs=3)
    query = graph.op("Mul", split(query, [0, 2, 1, 3]), 1 / math.sqrt(dim // heads))
    scores = graph.op("MatMul", query, split(keys, [0, 2, 3, 1]))
    mixed = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), split(values, [0, 2, 1, 3]))
    rows = graph.op("Transpose", mixed, perm=[0, 2, 1, 3])
    return _linear(graph, graph.op("Reshape", rows, [-1, dim]), params["outer"])


def _convolution(
    graph: _Graph,
    x: str,
    params: Mapping[Any, Any],
    statistics: Mapping[Any, Any] | None,
    tokens: int,
) -> str:
    both = _linear(graph, _norm(graph, x, params["norm"]), params["inner"])
    value, gate = graph.op("Split", both, outputs=2, axis=-1, num_outputs=2)
    x = graph.op("Mul", value, graph.op("Sigmoid", gate))
    kernel = np.asarray(params["depthwise_kernel"], np.float32)
    bias = np.asarray(params["depthwise_bias"], np.float32)
    if statistics is not None:  # BatchNorm with running statistics is a factor and a summand
        norm = params["batch_norm"]
        factor = np.asarray(norm["scale"]) / np.sqrt(np.asarray(statistics["var"]) + _EPSILON)
        kernel = kernel * factor
        bias = (bias - np.asarray(statistics["mean"])) * factor + np.asarray(norm["bias"])
    x = graph.op("Add", _depthwise(graph, x, kernel, tokens), bias)
    if statistics is None:
        x = _norm(graph, x, params["layer_norm"])
    return _linear(graph, _silu(graph, x), params["outer"])


def _depthwise(graph: _Graph, x: str, kernel: Float32[np.ndarray, "K D"], tokens: int) -> str:
    half = len(kernel) // 2
    windows = graph.op("Reshape", x, [-1, tokens, kernel.shape[1]])
    columns = graph.op("Transpose", windows, perm=[0, 2, 1])
    convolved = graph.op(
        "Conv",
        columns,
        np.ascontiguousarray(kernel.T[:, None]),
        group=kernel.shape[1],
        pads=[half, half],
        kernel_shape=[len(kernel)],
    )
    windows = graph.op("Transpose", convolved, perm=[0, 2, 1])
    return graph.op("Reshape", windows, [-1, kernel.shape[1]])


def _projection(graph: _Graph, config: ModelConfig, params: Mapping[Any, Any]) -> str:
    """`model.projection.Projection`."""
    projection = config.encoder.projection
    frames, mels = projection.num_frames, projection.mel.num_mels
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


def _linear(graph: _Graph, x: str, params: Mapping[Any, Any]) -> str:
    return graph.op("Gemm", x, graph.weights(params["kernel"]), graph.weights(params["bias"]))


def _norm(graph: _Graph, x: str, params: Mapping[Any, Any]) -> str:
    scale, bias = graph.weights(params["scale"]), graph.weights(params["bias"])
    return graph.op("LayerNormalization", x, scale, bias, axis=-1, epsilon=_EPSILON)


def _silu(graph: _Graph, x: str) -> str:
    return graph.op("Mul", x, graph.op("Sigmoid", x))


def _unit(graph: _Graph, x: str) -> str:
    """Rows of length 1; zero stays zero."""
    length = graph.op("Sqrt", graph.op("ReduceSum", graph.op("Mul", x, x), [1], keepdims=1))
    return graph.op("Div", x, graph.op("Max", length, _LEAST_NORM))
