"""Hugging Face's own MarianMT, randomly initialised, as the oracle."""

import json

import keras
import numpy as np
import pytest

from keras_transformer.decoding import GreedySearch
from keras_transformer.interchange import MarianTransformer, load_marian

pytest.importorskip("safetensors")
pytest.importorskip("torch", reason="the oracle runs on PyTorch")
transformers = pytest.importorskip("transformers")
SIZES = {
    "vocab_size": 30,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "pad_token_id": 29,
    "decoder_start_token_id": 29,
    "eos_token_id": 0,
    "scale_embedding": True,
    "activation_function": "swish",
}


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    """(MarianMTModel, its folder)."""
    folder = tmp_path_factory.mktemp("marian")
    return random_model(folder), folder


def random_model(folder, **changes):
    """A MarianMTModel, saved too: all weights random, norms and the output bias too."""
    import torch

    torch.manual_seed(0)
    model = transformers.MarianMTModel(transformers.MarianConfig(**SIZES | changes)).eval()
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), ("bias", model.final_logits_bias)]:
            if "embed_positions" not in name:
                tensor.copy_(tensor + (1.0 if "shared" in name else 0.4) * torch.randn(tensor.shape))
    model.save_pretrained(folder)
    return model


def test_logits_are_those_of_marian(oracle):
    compare_logits(*oracle)


def test_logits_of_a_model_that_does_not_scale_embeddings(tmp_path):
    """As transformers makes it where its configuration does not say."""
    compare_logits(random_model(tmp_path, scale_embedding=False, activation_function="gelu"), tmp_path)


def compare_logits(reference, folder):
    import torch

    generator = np.random.default_rng(0)
    for rows, source_length, target_length in ((1, 3, 2), (4, 9, 6), (2, 17, 11)):
        source = generator.integers(1, 29, (rows, source_length))
        source[0, source_length // 2 :] = 29  # padding
        target = generator.integers(1, 29, (rows, target_length))
        target[:, 0] = 29
        with torch.no_grad():
            mask = torch.tensor(source != 29).long()
            expected = reference(
                torch.tensor(source), attention_mask=mask, decoder_input_ids=torch.tensor(target)
            ).logits
        ours = np.where(np.arange(target_length) == 0, 30, target)  # bos instead of pad
        logits = keras.ops.convert_to_numpy(load_marian(folder)({"source": source, "target": ours}))
        np.testing.assert_allclose(logits[..., :30], expected.numpy(), rtol=1e-4, atol=1e-4)
        assert logits[..., 30].max() < -1e8


def test_greedy_search_says_what_generate_says(oracle):
    import torch

    reference, folder = oracle
    source = np.random.default_rng(1).integers(1, 29, (6, 7))
    source[:, -1] = 0
    options = {
        "num_beams": 1,
        "do_sample": False,
        "max_new_tokens": 9,
        "bad_words_ids": [[29]],
        "forced_eos_token_id": None,
    }
    expected = reference.generate(torch.tensor(source), **options).numpy()[:, 1:]
    ids, _ = GreedySearch(load_marian(folder), max_length=9)(source)
    np.testing.assert_array_equal(ids[:, 0, : expected.shape[1]], expected)
    assert len({tuple(row) for row in expected.tolist()}) > 1


def test_trains_further_and_saves(oracle, tmp_path):
    """The bias is part of the loss's gradient, and of what is saved."""
    model = load_marian(oracle[1])
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    before = keras.ops.convert_to_numpy(model.output_bias).copy()
    batch = {"source": np.array([[4, 5, 0]]), "target": np.array([[30, 6]])}, np.array([[6, 0]])
    losses = [model.train_on_batch(*batch, return_dict=True)["loss"] for _ in range(3)]
    assert losses[-1] < losses[0]
    assert np.abs(keras.ops.convert_to_numpy(model.output_bias) - before)[6] > 1e-3
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, MarianTransformer)
    for one, other in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")
def test_the_decoder_begins_with_what_the_configuration_says(oracle, tmp_path):
    import shutil

    _, folder = oracle
    shutil.copytree(folder, tmp_path / "model")
    for start, changes in ((5, {"decoder_start_token_id": 5}), (29, {"decoder_start_token_id": ...})):
        config = json.loads((folder / "config.json").read_text()) | changes
        config = {name: value for name, value in config.items() if value is not ...}
        (tmp_path / "model" / "config.json").write_text(json.dumps(config))
        table = keras.ops.convert_to_numpy(load_marian(tmp_path / "model").target_embedding.embeddings)
        np.testing.assert_array_equal(table[30], table[start])


def test_other_architectures_and_damaged_folders_are_refused(oracle, tmp_path):
    import shutil

    def refused(match, without=None, damaged=None, **changes):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(oracle[1], folder)
        config = json.loads((folder / "config.json").read_text()) | changes
        config = {name: value for name, value in config.items() if value is not ...}
        (folder / "config.json").write_text(json.dumps(config))
        if without:
            (folder / without).unlink()
        if damaged:
            with open(folder / "model.safetensors", "r+b") as file:
                file.truncate(damaged)
        with pytest.raises(ValueError, match=match):
            load_marian(folder)

    refused("config.json cannot be read", without="config.json")
    (tmp_path / "model" / "config.json").write_text("7")
    with pytest.raises(ValueError, match="config.json cannot be read"):
        load_marian(tmp_path / "model")
    refused("There is no .*model.safetensors. Others .* are pickles", without="model.safetensors")
    refused("model.safetensors cannot be read: .* Expected whole tensors", damaged=1000)
    refused("config.json lacks pad_token_id, encoder_layers. Expected", pad_token_id=..., encoder_layers=...)
    refused("model_type is 'bart', expected 'marian'", model_type="bart")
    refused("normalize_before is True", normalize_before=True)
    refused("ffn_dim 12 in the encoder and 16 in the decoder", decoder_ffn_dim=16)
    refused("activation_function 'quick_gelu'; known are relu", activation_function="quick_gelu")
    refused("lacks the tensor model.encoder.layers.1.self_attn", encoder_layers=2)
    refused("holds model.decoder.layers.1.* for which our Transformer has no place", decoder_layers=1)
    refused(r"would be \(31,.*, expected \(41,", vocab_size=40, decoder_vocab_size=40)
