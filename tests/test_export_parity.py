"""A model trained on Multi30k, exported thrice: 200 unseen sentences must get the ids that Python gives them.

$KERAS_TRANSFORMER_PARITY_RUN names a saved translator, or the run folder of one, that is taken instead of training a small one here
for a few minutes. ``pytest -s`` shows the figures that docs/export.md has.
"""

import os
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_transformer as kt
from keras_transformer.decoding import BeamSearch, GreedySearch
from keras_transformer.export import export_ctranslate2, export_onnx, export_saved_model
from keras_transformer.export.driver_command import length_divisor
from keras_transformer.text.corpus import read_lines

pytestmark = pytest.mark.deep
DATA = Path(os.environ.get("KERAS_TRANSFORMER_MULTI30K", Path(__file__).resolve().parents[2] / "shared/data/multi30k"))
RUN = os.environ.get("KERAS_TRANSFORMER_PARITY_RUN")
SENTENCES, STEPS = 200, 60


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """All pairs twice, one layer each: BLEU is a few points, enough for opinions and for sentences that end."""
    if not (DATA / "train.en.gz").is_file():
        pytest.skip(f"Multi30k is not in {DATA}")
    if RUN:
        return kt.Translator.load(Path(RUN) / "translator" if (Path(RUN) / "translator").is_dir() else RUN)
    pairs = [list(read_lines(DATA / f"train.{language}.gz")) for language in ("en", "de")]
    tokenizer = kt.Tokenizer.train([*pairs[0], *pairs[1]], vocabulary_size=2000)
    sizes = {"d_model": 128, "d_ff": 256, "num_heads": 4, "num_layers": 1, "dropout": 0.1, "seed": 1}
    model = kt.Transformer(tokenizer.vocabulary_size, **sizes)
    schedule = kt.WarmupInverseSqrt(128, 200, 0.5)
    model.compile(optimizer=keras.optimizers.Adam(schedule, beta_2=0.98, epsilon=1e-9, global_clipnorm=1.0))
    model.fit(kt.Batches(*pairs, tokenizer, batch_tokens=2048, seed=1), epochs=2, verbose=0)
    return kt.Translator(model, tokenizer)


@pytest.fixture(scope="module")
def source(translator):
    texts = list(read_lines(DATA / "test_2016_flickr.en.gz"))[:SENTENCES]
    rows = translator.tokenizer.encode(texts, add_eos=True)
    return keras.utils.pad_sequences(rows, padding="post", value=translator.tokenizer.pad_id)


@pytest.fixture(scope="module")
def references():
    return list(read_lines(DATA / "test_2016_flickr.de.gz"))[:SENTENCES]


@pytest.fixture(scope="module")
def expected(translator, source, references):
    """{beam size: ids (B, L) of the best}; of a model that has learnt to translate a little."""
    greedy, _ = GreedySearch(translator.model, max_length=STEPS)(source)
    beam, _ = BeamSearch(translator.model, 4, 0.6, STEPS)(source)
    expected = {1: greedy[:, 0], 4: beam[:, 0]}
    for beam_size, ids in expected.items():
        value = kt.bleu(translator.tokenizer.decode(ids), references).value
        print(f"\n{keras.backend.backend()}, beam {beam_size}: BLEU {value:.2f} in Python")
        assert value > 2
    assert len({tuple(row) for row in greedy[:, 0].tolist()}) > SENTENCES / 2
    return expected


def same(found, expected):
    """How many rows of ids are the same, whatever their padding."""
    return sum(
        [x for x in one if x] == [x for x in other if x] for one, other in zip(found, expected.tolist(), strict=True)
    )


@pytest.mark.parametrize("beam_size", [1, 4])
def test_saved_model(translator, source, expected, tmp_path, beam_size):
    tf = pytest.importorskip("tensorflow")
    texts = list(read_lines(DATA / "val.en.gz"))[:50]
    options = {"beam_size": beam_size, "length_penalty": 0.6, "max_length": STEPS}
    export_saved_model(translator.model, translator.tokenizer, tmp_path / "export", sentences=texts, **options)
    serve = tf.saved_model.load(str(tmp_path / "export" / "1")).signatures["serving_default"]
    ids = serve(source=tf.constant(source, tf.int32))["ids"].numpy()[:, 0]
    assert same(ids.tolist(), expected[beam_size]) == SENTENCES
    for rows in (slice(0, 1), slice(3, 10), slice(50, 99)):  # unseen shapes
        width = int((source[rows] != 0).sum(axis=1).max())
        ids = serve(source=tf.constant(source[rows, :width], tf.int32))["ids"].numpy()[:, 0]
        assert same(ids.tolist(), expected[beam_size][rows]) == len(ids)


@pytest.mark.parametrize("beam_size", [1, 4])
def test_onnx(translator, source, expected, tmp_path, beam_size):
    pytest.importorskip("onnxruntime")
    from keras_transformer.export.onnx_driver import Translator

    export_onnx(translator.model, translator.tokenizer, tmp_path / "export")
    driver = Translator(tmp_path / "export")
    for rows in (slice(None), slice(0, 1), slice(3, 10), slice(50, 99)):
        width = int((source[rows] != 0).sum(axis=1).max())
        part = np.ascontiguousarray(source[rows, :width], "int32")
        found, _ = driver.search(part, beam_size, 0.6, STEPS)
        assert same(found[:, 0].tolist(), expected[beam_size][rows]) == len(part)


def test_ctranslate2(translator, source, references, expected, tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2")
    tokenizer = translator.tokenizer
    pieces = [tokenizer.pieces([x for x in row if x not in (0, tokenizer.eos_id)]) for row in source.tolist()]
    texts = {}
    for quantization in ("float32", "int8"):
        export_ctranslate2(translator.model, tokenizer, tmp_path / quantization, quantization=quantization)
        model = ctranslate2.Translator(str(tmp_path / quantization))
        for beam_size in (1, 4):
            found = [_best(result, 0.6) for result in _results(model, pieces, beam_size)]
            found = [[tokenizer._processor.piece_to_id(piece) for piece in row] for row in found]
            texts[quantization, beam_size] = [tokenizer.decode(row) for row in found]
            equal = same(found, expected[beam_size])
            print(f"\nCTranslate2 {quantization}, beam {beam_size}: {equal} of {SENTENCES} the same")
            if quantization == "float32":
                assert equal >= (SENTENCES if beam_size == 1 else 0.95 * SENTENCES)
    ours = {width: kt.bleu(tokenizer.decode(expected[width]), references).value for width in expected}
    for (quantization, width), translations in texts.items():
        allowed = 0.2 if quantization == "float32" else 0.5
        difference = kt.bleu(translations, references).value - ours[width]
        print(f"CTranslate2 {quantization}, beam {width}: BLEU {difference:+.2f} beside Python")
        assert abs(difference) < allowed


def _results(model, pieces, beam_size):
    """What CTranslate2 finds under the limits that Python has, 2 S + 10 or STEPS: it takes one a call, so lengths go one by one."""
    options = {"beam_size": beam_size, "num_hypotheses": beam_size, "length_penalty": 1}
    options |= {"return_scores": True, "return_end_token": True}
    results = [None] * len(pieces)
    for length in set(map(len, pieces)):
        rows = [index for index, row in enumerate(pieces) if len(row) == length]
        limit = min(2 * (length + 1) + 10, STEPS)
        found = model.translate_batch([pieces[index] for index in rows], max_decoding_length=limit, **options)
        for index, result in zip(rows, found, strict=True):
            results[index] = result
    return results


def _best(result, length_penalty):
    """The hypothesis that our length normalisation prefers."""
    pairs = zip(result.hypotheses, result.scores, strict=True)
    return max(pairs, key=lambda pair: pair[1] * len(pair[0]) / length_divisor(len(pair[0]), length_penalty))[0]
