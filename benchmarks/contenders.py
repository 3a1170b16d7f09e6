"""What train.py measures: each function prepares one contender and returns ``run(steps)``, which ends when all is computed.

All train the same encoder-decoder (sizes of train.py) on the same random ids with Adam and label smoothing 0.1. Run as a child
process of harness.py.
"""

import contextlib
import time

import click
import numpy as np
from harness import serve
from train import LENGTH, ROWS, SIZES, VOCABULARY

SMOOTHING = 0.1


def batch():
    generator = np.random.default_rng(0)
    return [generator.integers(4, VOCABULARY, (ROWS, LENGTH), dtype="int32") for _ in range(3)]


def ours(size, dropout, precision):
    """keras_transformer with its default compile(): Adam, warmup schedule, clipping, smoothed loss."""
    import keras

    import keras_transformer as kt

    keras.mixed_precision.set_global_policy(precision)
    source, target, labels = batch()
    model = kt.Transformer(VOCABULARY, dropout=dropout, norm="post", seed=0, **size)
    model.compile()
    return _keras_steps(model, {"source": source, "target": target}, labels)


def keras_nlp(size, dropout, precision):
    """The encoder and decoder layers of keras-nlp in a functional model, tied output, smoothed sparse loss."""
    import keras
    import keras_nlp
    from keras import ops

    keras.mixed_precision.set_global_policy(precision)
    width, heads, inner = size["d_model"], size["num_heads"], size["d_ff"]
    layers = keras_nlp.layers
    embedding = layers.TokenAndPositionEmbedding(VOCABULARY, LENGTH, width, tie_weights=True)
    source = keras.Input((LENGTH,), dtype="int32")
    target = keras.Input((LENGTH,), dtype="int32")
    encoded = keras.layers.Dropout(dropout)(embedding(source))
    for _ in range(size["num_layers"]):
        encoded = layers.TransformerEncoder(inner, heads, dropout=dropout)(encoded)
    decoded = keras.layers.Dropout(dropout)(embedding(target))
    for _ in range(size["num_layers"]):
        decoded = layers.TransformerDecoder(inner, heads, dropout=dropout)(decoded, encoded)
    model = keras.Model([source, target], embedding.token_embedding(decoded, reverse=True))

    def loss(labels, logits):
        logits = ops.cast(logits, "float32")
        score = ops.take_along_axis(logits, ops.cast(labels, "int32")[..., None], axis=-1)[..., 0]
        spread = (1 - SMOOTHING) * score + SMOOTHING * ops.mean(logits, axis=-1)
        return ops.mean(ops.logsumexp(logits, axis=-1) - spread)

    model.compile(keras.optimizers.Adam(1e-4), loss)
    source, target, labels = batch()
    return _keras_steps(model, [source, target], labels)


def _keras_steps(model, inputs, labels):
    def run(steps):
        for _ in range(steps):
            model.train_on_batch(inputs, labels)

    return run


def jax_by_hand(size, dropout, precision):
    """A plain JAX step: (B, T, D) flattened before each product, dropout at residuals and embeddings, donated state."""
    import jax
    import jax.numpy as jnp

    if precision != "float32":
        raise ValueError("Written for float32 alone: bfloat16 is slower on JAX's CPU backend.")
    width, heads, inner = size["d_model"], size["num_heads"], size["d_ff"]
    keys = iter(jax.random.split(jax.random.key(0), 200))
    xavier = jax.nn.initializers.glorot_uniform()

    def linear(rows, columns):
        return {"w": xavier(next(keys), (rows, columns)), "b": jnp.zeros(columns)}

    def norm():
        return {"g": jnp.ones(width), "b": jnp.zeros(width)}

    def layer(cross):
        made = {"qkv": linear(width, 3 * width), "o": linear(width, width), "n1": norm()}
        if cross:
            made |= {
                "q": linear(width, width),
                "kv": linear(width, 2 * width),
                "o2": linear(width, width),
                "n2": norm(),
            }
        return made | {"f1": linear(width, inner), "f2": linear(inner, width), "n3": norm()}

    parameters = {
        "table": jax.random.normal(next(keys), (VOCABULARY, width)) * width**-0.5,
        "encoder": [layer(False) for _ in range(size["num_layers"])],
        "decoder": [layer(True) for _ in range(size["num_layers"])],
    }
    place = jnp.arange(LENGTH)[:, None] / 10000 ** (jnp.arange(0, width, 2) / width)
    positions = jnp.concatenate([jnp.sin(place), jnp.cos(place)], axis=-1)

    def dense(p, x):
        return (x.reshape(-1, x.shape[-1]) @ p["w"] + p["b"]).reshape(*x.shape[:-1], -1)

    def normalize(p, x):
        x = x - x.mean(-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * p["g"] + p["b"]

    def split(x):
        return x.reshape(ROWS, LENGTH, heads, width // heads).transpose(0, 2, 1, 3)

    def attend(q, k, v, mask):
        scores = split(q) @ split(k).transpose(0, 1, 3, 2) * (width // heads) ** -0.5
        weights = jax.nn.softmax(scores if mask is None else jnp.where(mask, scores, -1e9))
        return (weights @ split(v)).transpose(0, 2, 1, 3).reshape(ROWS, LENGTH, width)

    def loss(parameters, key, source, target, labels):
        drops = iter(jax.random.split(key, 10 * size["num_layers"] + 2))

        def drop(x):
            if not dropout:
                return x
            return jnp.where(jax.random.bernoulli(next(drops), 1 - dropout, x.shape), x / (1 - dropout), 0.0)

        def embed(ids):
            return drop(parameters["table"][ids] * width**0.5 + positions)

        def self_attention(p, x, mask):
            return normalize(p["n1"], x + drop(dense(p["o"], attend(*jnp.split(dense(p["qkv"], x), 3, -1), mask))))

        def feed_forward(p, x):
            return normalize(p["n3"], x + drop(dense(p["f2"], jax.nn.relu(dense(p["f1"], x)))))

        encoded = embed(source)
        for p in parameters["encoder"]:
            encoded = feed_forward(p, self_attention(p, encoded, None))
        decoded = embed(target)
        causal = jnp.tril(jnp.ones((LENGTH, LENGTH), bool))
        for p in parameters["decoder"]:
            decoded = self_attention(p, decoded, causal)
            crossed = attend(dense(p["q"], decoded), *jnp.split(dense(p["kv"], encoded), 2, -1), None)
            decoded = feed_forward(p, normalize(p["n2"], decoded + drop(dense(p["o2"], crossed))))
        logits = decoded.reshape(-1, width) @ parameters["table"].T
        score = jnp.take_along_axis(logits, labels.reshape(-1, 1), axis=-1)[:, 0]
        spread = (1 - SMOOTHING) * score + SMOOTHING * logits.mean(-1)
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - spread)

    def step(state, key, *ids):
        parameters, first, second, count = state
        gradients = jax.grad(loss)(parameters, key, *ids)
        tree = jax.tree_util.tree_map
        first = tree(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
        second = tree(lambda v, g: 0.98 * v + 0.02 * g * g, second, gradients)
        rate = 1e-4 * jnp.sqrt(1 - 0.98 ** (count + 1)) / (1 - 0.9 ** (count + 1))
        parameters = tree(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-9), parameters, first, second)
        return parameters, first, second, count + 1

    zeros = jax.tree_util.tree_map(jnp.zeros_like, parameters)
    state = (parameters, zeros, jax.tree_util.tree_map(jnp.zeros_like, parameters), jnp.zeros(()))
    step = jax.jit(step, donate_argnums=0)
    ids = [jnp.asarray(part) for part in batch()]
    count = iter(range(10**9))

    def run(steps):
        nonlocal state
        for _ in range(steps):
            state = step(state, jax.random.key(next(count)), *ids)
        jax.block_until_ready(state)

    return run


def torch_transformer(size, dropout, precision, compiled=False):
    """torch.nn.Transformer, tied output, cross_entropy's own smoothing; under autocast for bfloat16."""
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, size["d_model"])
            nn.init.normal_(self.embedding.weight, std=size["d_model"] ** -0.5)
            self.positions = nn.Parameter(torch.zeros(LENGTH, size["d_model"]), requires_grad=False)
            self.dropout = nn.Dropout(dropout)
            layers = size["num_layers"]
            self.transformer = nn.Transformer(
                size["d_model"], size["num_heads"], layers, layers, size["d_ff"], dropout, batch_first=True
            )
            self.causal = nn.Transformer.generate_square_subsequent_mask(LENGTH)

        def forward(self, source, target):
            source, target = (
                self.dropout(self.embedding(ids) * size["d_model"] ** 0.5 + self.positions) for ids in (source, target)
            )
            decoded = self.transformer(source, target, tgt_mask=self.causal, tgt_is_causal=True)
            return decoded @ self.embedding.weight.T

    return _torch_steps(Model(), lambda model, source, target: model(source, target), precision, compiled)


def marian(size, dropout, precision):
    """Hugging Face MarianMTModel, untrained."""
    from transformers import MarianConfig, MarianMTModel

    layers, heads, inner = size["num_layers"], size["num_heads"], size["d_ff"]
    model = MarianMTModel(
        MarianConfig(
            vocab_size=VOCABULARY,
            d_model=size["d_model"],
            encoder_layers=layers,
            decoder_layers=layers,
            encoder_attention_heads=heads,
            decoder_attention_heads=heads,
            encoder_ffn_dim=inner,
            decoder_ffn_dim=inner,
            dropout=dropout,
            attention_dropout=0.0,
            activation_dropout=0.0,
            max_position_embeddings=LENGTH,
            pad_token_id=0,
            eos_token_id=3,
            decoder_start_token_id=2,
            scale_embedding=True,
        )
    )

    def logits(model, source, target):
        return model(input_ids=source, decoder_input_ids=target, use_cache=False).logits

    return _torch_steps(model, logits, precision)


def joeynmt(size, dropout, precision):
    """JoeyNMT's encoder, decoder and embeddings with its softmax tied to both tables."""
    import torch
    from joeynmt.decoders import TransformerDecoder
    from joeynmt.embeddings import Embeddings
    from joeynmt.encoders import TransformerEncoder
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = {
                "hidden_size": size["d_model"],
                "ff_size": size["d_ff"],
                "num_layers": size["num_layers"],
                "num_heads": size["num_heads"],
                "dropout": dropout,
                "emb_dropout": dropout,
                "layer_norm": "post",
            }
            self.embedding = Embeddings(size["d_model"], scale=True, vocab_size=VOCABULARY, padding_idx=0)
            nn.init.normal_(self.embedding.lut.weight, std=size["d_model"] ** -0.5)
            self.encoder = TransformerEncoder(**sizes)
            self.decoder = TransformerDecoder(**sizes, vocab_size=VOCABULARY)
            self.decoder.output_layer.weight = self.embedding.lut.weight
            self.mask = torch.ones(ROWS, 1, LENGTH, dtype=torch.bool)

        def forward(self, source, target):
            encoded, _ = self.encoder(self.embedding(source), None, self.mask)
            return self.decoder(self.embedding(target), encoded, None, self.mask, LENGTH, None, trg_mask=self.mask)[0]

    return _torch_steps(Model(), lambda model, source, target: model(source, target), precision)


def torch_compiled(size, dropout, precision):
    """torch.nn.Transformer as above, through torch.compile."""
    return torch_transformer(size, dropout, precision, compiled=True)


def _torch_steps(model, logits, precision, compiled=False):
    import torch

    model.train()
    if compiled:
        model = torch.compile(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, betas=(0.9, 0.98), eps=1e-9)
    source, target, labels = (torch.tensor(part, dtype=torch.long) for part in batch())

    def run(steps):
        for _ in range(steps):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed_bfloat16"):
                out = logits(model, source, target)
                loss = torch.nn.functional.cross_entropy(
                    out.reshape(-1, VOCABULARY), labels.reshape(-1), label_smoothing=SMOOTHING
                )
            loss.backward()
            optimizer.step()

    return run


def matmul(seconds):
    """The machine's rate: the best of the libraries that are here, on (2048, 512) x (512, 2048) float32."""
    a, b = np.ones((2048, 512), "float32"), np.ones((512, 2048), "float32")
    ways = []
    with contextlib.suppress(ImportError):
        import jax

        product, of_jax = jax.jit(jax.numpy.matmul), [jax.numpy.asarray(a), jax.numpy.asarray(b)]
        ways.append(lambda: product(*of_jax).block_until_ready())
    with contextlib.suppress(ImportError):
        import tensorflow as tf

        of_tensorflow = [tf.constant(a), tf.constant(b)]
        ways.append(lambda: tf.matmul(*of_tensorflow).numpy())
    with contextlib.suppress(ImportError):
        import torch

        of_torch = [torch.from_numpy(a), torch.from_numpy(b)]
        ways.append(lambda: torch.matmul(*of_torch))

    def burst():
        best = 0.0
        for way in ways:
            way()
            count, begin = 0, time.perf_counter()
            while time.perf_counter() - begin < seconds:
                way()
                count += 1
            best = max(best, count * 2 * 2048 * 512 * 2048 / (time.perf_counter() - begin))
        return {"flops": best}

    return burst


@click.command()
@click.argument("name")
@click.option("--size", type=click.Choice(list(SIZES)), default="small")
@click.option("--dropout", type=float, default=0.1)
@click.option("--precision", default="float32")
@click.option("--seconds", type=float, default=3.0)
def main(name, size, dropout, precision, seconds):
    if name == "matmul":
        return serve(matmul(seconds))
    functions = (ours, keras_nlp, jax_by_hand, torch_transformer, torch_compiled, marian, joeynmt)
    run = {function.__name__: function for function in functions}[name](SIZES[size], dropout, precision)
    run(2)  # traces and compiles
    begin = time.perf_counter()
    run(1)
    steps = max(1, round(seconds / (time.perf_counter() - begin)))

    def burst():
        begin = time.perf_counter()
        run(steps)
        return {"tokens_per_second": steps * ROWS * LENGTH / (time.perf_counter() - begin)}

    return serve(burst)


if __name__ == "__main__":
    main()
