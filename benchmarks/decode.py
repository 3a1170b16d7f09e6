"""Sentences a second of beam and greedy search, beside KerasHub, Hugging Face and CTranslate2.

    python benchmarks/decode.py                          # bench-small, in three parts
    python benchmarks/decode.py --parts beam             # beam 4, 32 sentences, 24 tokens, all contenders
    python benchmarks/decode.py --parts greedy           # greedy, 1 sentence, 24 tokens, all contenders
    python benchmarks/decode.py --parts length --only ours --only CTranslate2     # 64 and 256 tokens: the cache at work

All have the same sizes and untrained weights, and write exactly as many tokens as asked for: what ends is decided by eos, which
is forbidden or does not come. Each is a process of its own (harness.py), warmed up until nothing is left to compile or, on PyTorch,
to capture; they are asked in turn.
"""

import json
import sys
import time
from pathlib import Path

import click
import numpy as np
from harness import chosen, head, machine, measure, median, serve, spread, write_json

SIZES = {
    "small": {"num_layers": 3, "d_model": 256, "num_heads": 4, "d_ff": 1024, "vocabulary": 8000},
    "base": {"num_layers": 6, "d_model": 512, "num_heads": 8, "d_ff": 2048, "vocabulary": 8000},
    "tiny": {"num_layers": 1, "d_model": 16, "num_heads": 2, "d_ff": 32, "vocabulary": 50},  # for a test of this file
}
SOURCE_LENGTH = 24
PAD, BOS, EOS = 0, 2, 3


def sources(case):
    """Random ids (B, S), each row ended by eos."""
    ids = np.random.default_rng(0).integers(
        4, SIZES[case["size"]]["vocabulary"], (case["rows"], SOURCE_LENGTH), dtype="int32"
    )
    ids[:, -1] = EOS
    return ids


def ours(case):
    """keras_transformer's BeamSearch or GreedySearch, eos forbidden until the limit."""
    import keras_transformer as kt

    size = dict(SIZES[case["size"]])
    model = kt.Transformer(size.pop("vocabulary"), seed=0, **size)
    if case.get("xla"):
        model.jit_compile = True
    # The limit by the source's length, 2 S + 10 unless told, would end 64 and 256 tokens alike at 58.
    rules = kt.decoding.Rules(banned=(EOS,), length_ratio=(0, case["tokens"]))
    if case["beam"] == 1:
        search = kt.decoding.GreedySearch(model, max_length=case["tokens"], rules=rules)
    else:
        search = kt.decoding.BeamSearch(model, case["beam"], max_length=case["tokens"], n_best=1, rules=rules)
    source = sources(case)
    return lambda: int((search(source)[0] != PAD).sum(axis=2).min())


def keras_hub(case):
    """KerasHub's BART with its BeamSampler or GreedySampler; its own generation loop, without its tokenizer."""
    import keras
    import keras_hub
    from keras import ops

    size, tokens = SIZES[case["size"]], case["tokens"]
    backbone = keras_hub.models.BartBackbone(
        vocabulary_size=size["vocabulary"],
        num_layers=size["num_layers"],
        num_heads=size["num_heads"],
        hidden_dim=size["d_model"],
        intermediate_dim=size["d_ff"],
        max_sequence_length=max(tokens + 1, SOURCE_LENGTH),
    )
    model = keras_hub.models.BartSeq2SeqLM(backbone=backbone)
    sampler = "greedy" if case["beam"] == 1 else keras_hub.samplers.BeamSampler(num_beams=case["beam"])
    model.compile(sampler=sampler)
    rows = case["rows"]
    target = np.full((rows, tokens + 1), PAD, dtype="int32")
    target[:, 0] = BOS
    inputs = {
        "encoder_token_ids": sources(case),
        "encoder_padding_mask": np.ones((rows, SOURCE_LENGTH), dtype="bool"),
        "decoder_token_ids": target,
        "decoder_padding_mask": target != PAD,
    }
    if keras.backend.backend() != "jax":
        inputs = {name: ops.convert_to_tensor(x) for name, x in inputs.items()}
    generate = model.make_generate_function()

    def run():
        found = generate(inputs, stop_token_ids=None)
        return ops.convert_to_numpy(found["decoder_token_ids"]).shape[1] - 1

    return run


def marian_model(case):
    """An untrained Hugging Face MarianMTModel of the size."""
    import torch
    from transformers import MarianConfig, MarianMTModel

    torch.manual_seed(0)
    size = SIZES[case["size"]]
    config = MarianConfig(
        vocab_size=size["vocabulary"],
        d_model=size["d_model"],
        encoder_layers=size["num_layers"],
        decoder_layers=size["num_layers"],
        encoder_attention_heads=size["num_heads"],
        decoder_attention_heads=size["num_heads"],
        encoder_ffn_dim=size["d_ff"],
        decoder_ffn_dim=size["d_ff"],
        max_position_embeddings=max(case["tokens"] + 2, SOURCE_LENGTH),
        pad_token_id=PAD,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
        scale_embedding=True,
    )
    return MarianMTModel(config).eval()


def marian(case):
    """Its generate()."""
    import torch

    model = marian_model(case)
    ids = torch.tensor(sources(case), dtype=torch.long)
    mask = torch.ones_like(ids)
    options = {
        "num_beams": case["beam"],
        "min_new_tokens": case["tokens"],
        "max_new_tokens": case["tokens"],
        "do_sample": False,
    }

    def run():
        with torch.inference_mode():
            return model.generate(ids, attention_mask=mask, **options).shape[1] - 1

    return run


def ctranslate2(case):
    """CTranslate2, float32, a Transformer of the size with random weights."""
    import tempfile

    import ctranslate2 as ct2
    from ctranslate2.specs import TransformerSpec

    size = SIZES[case["size"]]
    width, inner, layers = size["d_model"], size["d_ff"], size["num_layers"]
    generator = np.random.default_rng(0)

    def draw(*shape):
        return (generator.normal(size=shape) * width**-0.5).astype("float32")

    def norm(spec):
        spec.gamma, spec.beta = np.ones(width, "float32"), np.zeros(width, "float32")

    def linear(spec, outputs, inputs):
        spec.weight, spec.bias = draw(outputs, inputs), np.zeros(outputs, "float32")

    def attention(spec, together):
        norm(spec.layer_norm)
        linear(spec.linear[0], 3 * width if together else width, width)
        if not together:
            linear(spec.linear[1], 2 * width, width)
        linear(spec.linear[-1], width, width)

    def feed_forward(spec):
        norm(spec.layer_norm)
        linear(spec.linear_0, inner, width)
        linear(spec.linear_1, width, inner)

    spec = TransformerSpec.from_config((layers, layers), size["num_heads"], pre_norm=False)
    positions = np.zeros((max(case["tokens"] + 2, SOURCE_LENGTH + 2), width), dtype="float32")
    for half in (spec.encoder, spec.decoder):
        embeddings = half.embeddings[0] if isinstance(half.embeddings, list) else half.embeddings
        embeddings.weight = draw(size["vocabulary"], width)
        half.position_encodings.encodings = positions
    for layer in spec.encoder.layer:
        attention(layer.self_attention, together=True)
        feed_forward(layer.ffn)
    for layer in spec.decoder.layer:
        attention(layer.self_attention, together=True)
        attention(layer.attention, together=False)
        feed_forward(layer.ffn)
    linear(spec.decoder.projection, size["vocabulary"], width)
    words = ["<pad>", "<unk>", "<s>", "</s>", *(f"w{n}" for n in range(4, size["vocabulary"]))]
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    folder = tempfile.TemporaryDirectory()
    spec.validate()
    spec.optimize(quantization="float32")
    spec.save(folder.name)
    translator = ct2.Translator(folder.name, device="cpu", compute_type="float32", inter_threads=1)
    texts = [[words[token] for token in row] for row in sources(case)]
    options = {"beam_size": case["beam"], "min_decoding_length": case["tokens"], "max_decoding_length": case["tokens"]}

    def run(folder=folder):  # the folder stays as long as this
        found = translator.translate_batch(texts, max_batch_size=case["rows"], return_scores=False, **options)
        return len(found[0].hypotheses[0])

    return run


CONTENDERS = {  # name: (function, KERAS_BACKEND)
    "ours, JAX": ("ours", "jax"),
    "ours, TensorFlow": ("ours", "tensorflow"),
    "ours, TensorFlow, XLA": ("ours", "tensorflow"),
    "ours, PyTorch": ("ours", "torch"),
    "KerasHub BART, JAX": ("keras_hub", "jax"),
    "KerasHub BART, TensorFlow": ("keras_hub", "tensorflow"),
    "Hugging Face Marian": ("marian", "torch"),
    "CTranslate2": ("ctranslate2", "torch"),
}


def child(case):
    """One contender; a burst is as many searches as fill ``seconds``."""
    functions = {function.__name__: function for function in (ours, keras_hub, marian, ctranslate2)}
    run = functions[case["function"]](case)
    for _ in range(runs_to_warm_up(case)):
        written = run()
    if written != case["tokens"]:
        raise RuntimeError(f"{case['function']} wrote {written} tokens instead of {case['tokens']}.")

    def burst():
        begin, times = time.perf_counter(), 0
        while times == 0 or time.perf_counter() - begin < case["seconds"]:
            run()
            times += 1
        return {"sentences_per_second": times * case["rows"] / (time.perf_counter() - begin)}

    burst()
    return serve(burst)


def runs_to_warm_up(case):
    """Searches after which nothing is traced, compiled or captured any more."""
    import keras

    if case["function"] != "ours" or keras.backend.backend() != "torch":
        return 2
    from keras_transformer.backend_decoding import _STEPS_BEFORE_CAPTURE

    return _STEPS_BEFORE_CAPTURE // 8 + 2  # a graph serves 8 steps of a search or more: from 16 positions to 24


PARTS = {  # name: ((tokens, sentences, beam), ...)
    "beam": ((24, 32, 4),),
    "greedy": ((24, 1, 1),),
    "length": ((64, 32, 4), (256, 32, 4), (64, 1, 1), (256, 1, 1)),
}
RATIOS = (
    ("ours, JAX", "KerasHub BART, JAX"),
    ("ours, TensorFlow", "KerasHub BART, TensorFlow"),
    ("ours, TensorFlow, XLA", "KerasHub BART, TensorFlow"),
    ("ours, PyTorch", "Hugging Face Marian"),
    ("ours, JAX", "CTranslate2"),
    ("ours, TensorFlow, XLA", "CTranslate2"),
)


@click.command(help=__doc__)
@click.option("--size", type=click.Choice(list(SIZES)), default="small", show_default=True)
@click.option("--parts", default=",".join(PARTS), show_default=True, help="Of the benchmark, separated by commas.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--seconds", type=float, default=3.0, show_default=True, help="Of a burst.")
@click.option("--only", multiple=True, help="Only those whose name has this word; may be given again.")
@click.option("--json", "file", default=None, help="Where to write every measurement.")
@click.option("--child", "job", default=None, hidden=True)
def main(size, parts, rounds, seconds, only, file, job):
    if job is not None:
        return child(json.loads(job))
    click.echo(head(machine()))
    tables = {}
    for part in parts.split(","):
        of_part = {}
        for tokens, rows, beam in PARTS[part]:
            case = {"size": size, "tokens": tokens, "rows": rows, "beam": beam, "seconds": seconds}
            title = f"bench-{size}, beam {beam}, batch {rows}, {tokens} tokens"
            click.echo(f"\n{title:50}{'sentences/s':>12} {'spread':>7}")
            commands = {name: _command(name, case) for name in chosen(CONTENDERS, only)}
            results = tables[title] = measure(commands, rounds, click.echo)
            for name, bursts in results.items():
                middle, share = median(bursts, "sentences_per_second"), spread(bursts, "sentences_per_second")
                click.echo(f"{name:50}{middle:12.1f} {share:7.1%}")
                of_part[name, tokens, rows] = middle
            for one, other in RATIOS:
                if one in results and other in results:
                    ratio = of_part[one, tokens, rows] / of_part[other, tokens, rows]
                    click.echo(f"{f'{one} / {other}':50}{ratio:12.2f}")
        for name, tokens, rows in of_part:
            if part == "length" and tokens == 256 and (name, 64, rows) in of_part:
                ratio = of_part[name, 64, rows] / of_part[name, 256, rows]
                click.echo(f"{f'{name}, batch {rows}: time for 256 / 64':50}{ratio:12.2f}")
    if file:
        write_json(file, "decode", tables, size=size)
    return None


def _command(name, case):
    """Command line and environment of a contender."""
    function, backend = CONTENDERS[name]
    job = json.dumps(case | {"function": function, "xla": "XLA" in name})
    return [sys.executable, str(Path(__file__)), "--child", job], {"KERAS_BACKEND": backend}


if __name__ == "__main__":
    main()
