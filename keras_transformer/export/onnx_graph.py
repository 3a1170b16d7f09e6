"""A Transformer written as ONNX operators: the layers' arithmetic once more, in the words of another format.

Written node by node from the weights, so that every backend gives the same file and no tracer stands between. Opset 20; every
axis of batch and length is open. The axes are those of the package; N counts decoder layers.
"""

import keras
import numpy as np
import onnx

from keras_transformer.layers.embedding import sinusoid_rates

OPSET = 20
_IR_VERSION = 10  # onnxruntime reads it from release 1.18 on
_MASKED = np.float32(-1e9)


class Graph:
    """Nodes and constants of one ONNX graph, made by calls: ``graph.Add(x, y)`` is a node and the name of its output."""

    def __init__(self, weights):
        self.weights = weights
        self.nodes, self.constants = [], {}

    def __getattr__(self, operator):
        def add(*inputs, outputs=1, **attributes):
            names = [f"{operator}_{len(self.nodes)}_{index}" for index in range(outputs)]
            inputs = [x if isinstance(x, str) else self.constant(x) for x in inputs]
            self.nodes.append(onnx.helper.make_node(operator, inputs, names, **attributes))
            return names[0] if outputs == 1 else names

        return add

    def constant(self, value, name=None):
        """The name of a constant; Python's integers are int64."""
        array = np.asarray(value)
        name = name or f"constant_{len(self.constants)}"
        self.constants[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def weight(self, path):
        return path if path in self.constants else self.constant(self.weights.take(path), path)

    def model(self, inputs, outputs):
        """The onnx.ModelProto with ``inputs`` and ``outputs`` {name: (type, axes)}; an output is renamed from its node's name."""
        info = onnx.helper.make_tensor_value_info
        for name, (source, *_) in outputs.items():
            self.nodes.append(onnx.helper.make_node("Identity", [source], [name]))
        graph = onnx.helper.make_graph(
            self.nodes,
            "keras_transformer",
            [info(name, *rest) for name, rest in inputs.items()],
            [info(name, *rest) for name, (_, *rest) in outputs.items()],
            list(self.constants.values()),
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)])
        model.ir_version = _IR_VERSION
        onnx.checker.check_model(model, full_check=True)
        return model


def encoder_graph(model, weights):
    """source (B, S) -> encoder_keys, encoder_values (B, N, H, S, K): what the decoder needs of a source."""
    graph = Graph(weights)
    table = "target_embedding" if model.tie_embeddings == "all" else "source_embedding"
    x = _embed(graph, model, f"{table}/embeddings", "source", graph.constant(0), _size(graph, "source", 1))
    mask = _mask(graph, model)
    for index in range(model.num_layers):
        path = f"encoder/layer_{index}"
        x = _residual(
            graph, model, f"{path}/self_attention", x, lambda y, path=path: _self(graph, model, path, y, mask)
        )
        x = _residual(
            graph, model, f"{path}/feed_forward", x, lambda y, path=path: _feed_forward(graph, model, path, y)
        )
    x = _finish(graph, model, "encoder", x)
    pairs = [
        _split(graph, model, f"decoder/layer_{i}/cross_attention/key_value", x, 2)
        for i in range(model.num_decoder_layers)
    ]
    outputs = {
        f"encoder_{name}": (_stack(graph, tensors), onnx.TensorProto.FLOAT, _cache_axes(model, "B", "S"))
        for name, tensors in zip(("keys", "values"), zip(*pairs, strict=True), strict=True)
    }
    return graph.model({"source": (onnx.TensorProto.INT32, ("B", "S"))}, outputs)


def decoder_step_graph(model, weights):
    """One token more for every hypothesis; as the SavedModel's signature decode_step, but that the cache comes out as grown_keys
    and grown_values: ONNX has no name twice."""
    graph = Graph(weights)
    step = _size(graph, "keys", 3)
    rows = graph.Unsqueeze("target", [1])  # (B W, 1)
    x = _embed(graph, model, "target_embedding/embeddings", rows, step, graph.constant(1))
    mask, grown = _mask(graph, model), []
    for index in range(model.num_decoder_layers):
        path = f"decoder/layer_{index}"
        attend = lambda y, index=index, path=path: _cached_self(graph, model, path, y, index, grown)  # noqa: E731
        x = _residual(graph, model, f"{path}/self_attention", x, attend)
        attend = lambda y, index=index, path=path: _cross(graph, model, path, y, index, mask)  # noqa: E731
        x = _residual(graph, model, f"{path}/cross_attention", x, attend)
        x = _residual(
            graph, model, f"{path}/feed_forward", x, lambda y, path=path: _feed_forward(graph, model, path, y)
        )
    x = graph.Reshape(_finish(graph, model, "decoder", x), [-1, model.d_model])
    table = "target_embedding/embeddings" if model.tie_embeddings else "output_projection/kernel"
    logits = graph.Gemm(x, graph.weight(table), transB=1)  # (B W, V)
    keys, values = zip(*grown, strict=True)
    grown_axes = _cache_axes(model, "BW", "T1")
    outputs = {
        "logits": (logits, onnx.TensorProto.FLOAT, ("BW", model.vocabulary_size)),
        "grown_keys": (_stack(graph, keys), onnx.TensorProto.FLOAT, grown_axes),
        "grown_values": (_stack(graph, values), onnx.TensorProto.FLOAT, grown_axes),
    }
    return graph.model(_step_inputs(model), outputs)


def _step_inputs(model):
    inputs = {"source": (onnx.TensorProto.INT32, ("B", "S")), "target": (onnx.TensorProto.INT32, ("BW",))}
    for name in ("keys", "values"):
        inputs[f"encoder_{name}"] = onnx.TensorProto.FLOAT, _cache_axes(model, "B", "S")
        inputs[name] = onnx.TensorProto.FLOAT, _cache_axes(model, "BW", "T")
    return inputs


def _cache_axes(model, rows, length):
    return (rows, model.num_decoder_layers, model.num_heads, length, model.d_model // model.num_heads)


def _size(graph, tensor, axis):
    """One dimension of a tensor, as an int64 scalar."""
    return graph.Gather(graph.Shape(tensor), axis)


def _mask(graph, model):
    """(B, 1, 1, S), True where the source holds a token."""
    return graph.Unsqueeze(graph.Not(graph.Equal("source", np.int32(model.pad_id).reshape(()))), [1, 2])


def _stack(graph, tensors):
    return graph.Concat(*(graph.Unsqueeze(x, [1]) for x in tensors), axis=1)


def _embed(graph, model, table, ids, start, length):
    """Rows of the table times sqrt(D), plus the sinusoids of positions start to start + length."""
    x = graph.Mul(graph.Gather(graph.weight(table), ids), np.float32(model.d_model**0.5))
    positions = graph.Cast(graph.Range(start, graph.Add(start, length), 1), to=onnx.TensorProto.FLOAT)
    angles = graph.Mul(graph.Unsqueeze(positions, [1]), sinusoid_rates(model.d_model))  # (T, D / 2)
    waves = graph.Concat(graph.Unsqueeze(graph.Sin(angles), [2]), graph.Unsqueeze(graph.Cos(angles), [2]), axis=2)
    return graph.Add(x, graph.Reshape(waves, [-1, model.d_model]))


def _residual(graph, model, path, x, sublayer):
    if model.norm == "pre":
        return graph.Add(x, sublayer(_norm(graph, model, f"{path}_residual/layer_norm", x)))
    return _norm(graph, model, f"{path}_residual/layer_norm", graph.Add(x, sublayer(x)))


def _norm(graph, model, path, x):
    gamma, beta = graph.weight(f"{path}/gamma"), graph.weight(f"{path}/beta")
    return graph.LayerNormalization(x, gamma, beta, axis=-1, epsilon=model.epsilon)


def _finish(graph, model, stack, x):
    return _norm(graph, model, f"{stack}/final_norm", x) if model.norm == "pre" else x


def _dense(graph, path, x):
    return graph.Add(graph.MatMul(x, graph.weight(f"{path}/kernel")), graph.weight(f"{path}/bias"))


def _feed_forward(graph, model, path, x):
    x = _activation(graph, model.activation, _dense(graph, f"{path}/feed_forward/inner", x))
    return _dense(graph, f"{path}/feed_forward/outer", x)


def _activation(graph, function, x):
    known = {
        keras.activations.relu: graph.Relu,
        keras.activations.gelu: graph.Gelu,
        keras.activations.silu: lambda y: graph.Mul(y, graph.Sigmoid(y)),
        keras.activations.tanh: graph.Tanh,
        keras.activations.sigmoid: graph.Sigmoid,
    }
    if function not in known:
        names = ", ".join(sorted(one.__name__ for one in known))
        raise ValueError(f"The ONNX export knows the activations {names}. Received: activation={function!r}.")
    return known[function](x)


def _split(graph, model, path, x, blocks):
    """x (B, T, D), projected and split into ``blocks`` tensors (B, H, T, K)."""
    x = graph.Reshape(_dense(graph, path, x), [0, 0, blocks, model.num_heads, model.d_model // model.num_heads])
    x = graph.Transpose(x, perm=[2, 0, 3, 1, 4])
    return [graph.Gather(x, block) for block in range(blocks)]


def _attend(graph, model, path, query, key, value, mask=None):
    """softmax(Q K^T / sqrt(K)) V through the output projection, (B, T, D)."""
    query = graph.Mul(query, np.float32((model.d_model // model.num_heads) ** -0.5))
    scores = graph.MatMul(query, graph.Transpose(key, perm=[0, 1, 3, 2]))
    if mask is not None:
        scores = graph.Where(mask, scores, _MASKED)
    attended = graph.Transpose(graph.MatMul(graph.Softmax(scores, axis=-1), value), perm=[0, 2, 1, 3])
    return _dense(graph, f"{path}/output", graph.Reshape(attended, [0, 0, model.d_model]))


def _self(graph, model, path, x, mask):
    query, key, value = _split(graph, model, f"{path}/self_attention/query_key_value", x, 3)
    return _attend(graph, model, f"{path}/self_attention", query, key, value, mask)


def _cached_self(graph, model, path, x, index, grown):
    """x (B W, 1, D) attends to the positions before it, which are in the cache, and to itself."""
    query, key, value = _split(graph, model, f"{path}/self_attention/query_key_value", x, 3)
    key = graph.Concat(graph.Gather("keys", index, axis=1), key, axis=2)
    value = graph.Concat(graph.Gather("values", index, axis=1), value, axis=2)
    grown.append((key, value))
    return _attend(graph, model, f"{path}/self_attention", query, key, value)


def _cross(graph, model, path, x, index, mask):
    """The hypotheses of a sentence side by side, as positions of one query (B, W, D), attend to its source."""
    batch = graph.Unsqueeze(_size(graph, "source", 0), [0])
    x = graph.Reshape(x, graph.Concat(batch, [-1], [model.d_model], axis=0))
    (query,) = _split(graph, model, f"{path}/cross_attention/query", x, 1)
    key, value = (graph.Gather(f"encoder_{name}", index, axis=1) for name in ("keys", "values"))
    attended = _attend(graph, model, f"{path}/cross_attention", query, key, value, mask)
    return graph.Reshape(attended, [-1, 1, model.d_model])
