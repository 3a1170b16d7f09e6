"""MarianMT models in Hugging Face's layout (config.json, model.safetensors), the published Opus-MT models among them, as ours.

Four things are other than in our Transformer, and none of them needs another forward pass:

    positions      Marian keeps all sines, then all cosines; ours alternate. Attention, LayerNorm and the embeddings do not care
                   which channel is which, so every weight's channels are put in our order once, when they are loaded.
    first token    Marian's decoder begins with pad, or what its configuration says. Ours needs a bos of its own: one row behind the
                   vocabulary, a copy of that one's.
    scale          Ours multiplies embeddings by sqrt(D). A Marian that does not (transformers' default, no Opus-MT) gets a table
                   divided by it, and a last norm multiplied, so that the logits are the same.
    output bias    MarianTransformer adds it to the logits. Bos has one so low that it is never said.

Junczys-Dowmunt et al. 2018, "Marian"; Tiedemann and Thottingal 2020, "OPUS-MT".
"""

import json
from pathlib import Path

import keras
import numpy as np

from keras_transformer.transformer import Transformer

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
_NEVER = -1e9  # the output bias of the added bos
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu", "silu": "silu"}
# What other releases of Marian's configuration may say, and what it must be for the architecture to be the one below.
_REQUIRED = {
    "model_type": "marian",
    "share_encoder_decoder_embeddings": True,
    "tie_word_embeddings": True,
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "static_position_embeddings": True,
}


_SIZES = ("layers", "attention_heads", "ffn_dim")
_NEEDED = (
    *("vocab_size", "d_model", "pad_token_id", "eos_token_id", "activation_function"),
    *("dropout", "attention_dropout", "activation_dropout"),
    *(f"{stack}_{size}" for stack in ("encoder", "decoder") for size in _SIZES),
)


@keras.saving.register_keras_serializable(package="keras_transformer")
class MarianTransformer(Transformer):
    """A Transformer with a bias on its logits, as Marian's models have it; else as Transformer.

    Loss and metrics of ``fit`` are computed on logits.

    Example:

    >>> import numpy as np
    >>> from keras_transformer.interchange import MarianTransformer
    >>> model = MarianTransformer(vocabulary_size=20, d_model=8, num_heads=2, num_layers=1)
    >>> tuple(model.output_bias.shape)
    (20,)
    """

    def build(self, input_shape=None):
        if self.built:
            return
        self.output_bias = self.add_weight(
            name="output_bias", shape=(self.vocabulary_size,), initializer="zeros", dtype="float32", autocast=False
        )
        super().build(input_shape)

    def logits(self, hidden):
        """Decoder output (B, T, D) -> float32 logits (B, T, V), bias added."""
        return super().logits(hidden) + self.output_bias

    def _counts_tokens(self, loss, metrics):
        return False  # the routine over hidden states knows no bias


def load_marian(folder, seed: int | None = None) -> MarianTransformer:
    """Reads a MarianMT model of Hugging Face's layout.

    Args:
        folder: holds config.json and model.safetensors, as ``MarianMTModel.save_pretrained`` writes them.
        seed: of dropout, if the model is trained further.

    Returns:
        MarianTransformer with one id more than the model it was: bos_id, the last one. All other ids are the same.

    Raises:
        ValueError: a file is missing or damaged, or the model is not of the architecture that Opus-MT's models have; says in what.

    Example:

        from keras_transformer.interchange import MarianTokenizer, load_marian
        translator = kt.Translator(load_marian("opus-mt-en-de"), MarianTokenizer("opus-mt-en-de"))
        translator.translate(["A dog runs through the snow."])
    """
    folder = Path(folder)
    config = _read_config(folder / CONFIG_FILE)
    tensors = _read_tensors(folder / WEIGHTS_FILE)
    model = MarianTransformer(**_arguments(config), seed=seed)
    source = _Source(tensors, config)
    for variable in model.weights:
        path = variable.path.split("/", 1)[1]
        array = (
            source.embeddings(config["decoder_start_token_id"])
            if path.startswith("target_embedding")
            else source.array(path)
        )
        if tuple(array.shape) != tuple(variable.shape):
            raise ValueError(
                f"{folder / WEIGHTS_FILE} does not fit {CONFIG_FILE}: {path} would be {tuple(array.shape)}, expected "
                f"{tuple(variable.shape)}. Expected the two files of one model."
            )
        variable.assign(array)
    source.finish(folder / WEIGHTS_FILE)
    return model


def _read_config(path):
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Expected a folder that MarianMTModel.save_pretrained wrote."
        ) from None
    for name, expected in _REQUIRED.items():
        if config.get(name, expected) != expected:
            raise ValueError(
                f"{path} describes a model of another architecture: {name} is {config[name]!r}, expected {expected!r}. Only models "
                "with the architecture of Opus-MT's are read."
            )
    if missing := [name for name in _NEEDED if name not in config]:
        raise ValueError(f"{path} lacks {', '.join(missing)}. Expected the configuration of a MarianMT model.")
    for name in ("attention_heads", "ffn_dim"):
        sizes = config[f"encoder_{name}"], config[f"decoder_{name}"]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{path} has {name} {sizes[0]} in the encoder and {sizes[1]} in the decoder; our layers have one size for both."
            )
    if config["activation_function"] not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise ValueError(f"{path} has activation_function {config['activation_function']!r}; known are {known}.")
    return {"decoder_start_token_id": config["pad_token_id"]} | config


def _read_tensors(path):
    try:
        from safetensors.numpy import load_file
    except ModuleNotFoundError:
        raise ValueError(
            "Reading a MarianMT model needs safetensors: pip install 'keras-transformer[marian]'."
        ) from None
    if not path.is_file():
        raise ValueError(
            f"There is no {path}. Others (pytorch_model.bin) are pickles, which may run code, and are not read: "
            "load them with transformers and save them with save_pretrained(folder, safe_serialization=True)."
        )
    try:
        return {name: tensor.astype("float32") for name, tensor in load_file(path).items()}
    except Exception as error:  # safetensors has an exception of its own, and NumPy no bfloat16
        raise ValueError(f"{path} cannot be read: {error}. Expected whole tensors of float32 or float16.") from None


def _arguments(config):
    """Of MarianTransformer."""
    return {
        "vocabulary_size": config["vocab_size"] + 1,
        "d_model": config["d_model"],
        "d_ff": config["encoder_ffn_dim"],
        "num_heads": config["encoder_attention_heads"],
        "num_layers": config["encoder_layers"],
        "num_decoder_layers": config["decoder_layers"],
        "dropout": config["dropout"],
        "attention_dropout": config["attention_dropout"],
        "activation_dropout": config["activation_dropout"],
        "activation": _ACTIVATIONS[config["activation_function"]],
        "epsilon": 1e-5,  # PyTorch's default, with which these models were converted
        "pad_id": config["pad_token_id"],
        "bos_id": config["vocab_size"],
        "eos_id": config["eos_token_id"],
    }


class _Source:
    """Marian's tensors by our paths, their channels in our order."""

    _NAMES = {
        "self_attention/query_key_value": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attention/output": ("self_attn.out_proj",),
        "self_attention_residual/layer_norm": ("self_attn_layer_norm",),
        "cross_attention/query": ("encoder_attn.q_proj",),
        "cross_attention/key_value": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
        "cross_attention/output": ("encoder_attn.out_proj",),
        "cross_attention_residual/layer_norm": ("encoder_attn_layer_norm",),
        "feed_forward/inner": ("fc1",),
        "feed_forward/outer": ("fc2",),
        "feed_forward_residual/layer_norm": ("final_layer_norm",),
    }
    # What files may hold beside: copies of the table, and positions that follow from d_model.
    _DERIVED = (
        "lm_head.weight",
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
        "model.encoder.embed_positions.weight",
        "model.decoder.embed_positions.weight",
    )

    def __init__(self, tensors, config):
        self._tensors = tensors
        d_model = config["d_model"]
        self._scale = 1.0 if config.get("scale_embedding", False) else np.float32(d_model**0.5)
        self._last_norm = f"decoder/layer_{config['decoder_layers'] - 1}/feed_forward_residual/layer_norm"
        self._untaken = set(tensors) - set(self._DERIVED)
        half = np.arange(d_model // 2)
        self._order = np.stack([half, half + d_model // 2], axis=-1).reshape(-1)  # sine, cosine, sine, ...

    def _take(self, name):
        if name not in self._tensors:
            raise ValueError(f"The MarianMT model lacks the tensor {name}. Expected the weights of a whole model.")
        self._untaken.discard(name)
        return self._tensors[name]

    def finish(self, path):
        if self._untaken:
            raise ValueError(
                f"{path} holds {', '.join(sorted(self._untaken)[:5])}, for which our Transformer has no place: the model is of "
                "another architecture."
            )

    def embeddings(self, start_id):
        """The shared table (V + 1, D): the last row is bos, which is what Marian's decoder begins with."""
        table = self._take("model.shared.weight")[:, self._order] / self._scale
        return np.concatenate([table, table[start_id : start_id + 1]])

    def array(self, path):
        """The weight at one of our paths."""
        if path == "output_bias":
            return np.append(self._take("final_logits_bias")[0], np.float32(_NEVER))
        stack, layer, rest = path.split("/", 2)
        part, kind = rest.rsplit("/", 1)
        prefix = f"model.{stack}.layers.{layer.removeprefix('layer_')}."
        kind_there = "weight" if kind in ("kernel", "gamma") else "bias"
        found = [self._take(f"{prefix}{name}.{kind_there}") for name in self._NAMES[part]]
        ordered = self._ordered(np.concatenate(found), part, kind)
        return ordered * self._scale if path.rsplit("/", 1)[0] == self._last_norm else ordered

    def _ordered(self, array, part, kind):
        """``array``, kernels transposed to (in, out), with the channels of the residual stream in our order."""
        writes = part.endswith(("output", "outer", "layer_norm"))  # to the residual stream, else it reads from there
        if kind != "kernel":
            return array[self._order] if writes else array
        return array.T[:, self._order] if writes else array.T[self._order]
