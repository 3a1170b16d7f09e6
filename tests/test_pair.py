"""Two vocabularies from text to translation: each side is cut by its own, and what cannot hold two says so."""

import dataclasses
import importlib.util

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import keras_transformer as kt
from keras_transformer.certify.comparison import BOUNDS
from keras_transformer.certify.plan import Plan
from keras_transformer.certify.stages import Subject, rescored, searches, stages
from keras_transformer.cli import main
from keras_transformer.evaluation import bleu
from keras_transformer.runs import Run, Settings
from keras_transformer.testing.adapter import adapt
from keras_transformer.testing.reading import attends_to_source_padding
from keras_transformer.text import PairStream, TokenizerPair, prepare, source_tokenizer
from keras_transformer.text.inspection import inspect_corpus
from keras_transformer.text.pair import vocabulary_sizes

once = pytest.mark.skipif(keras.backend.backend() != "jax", reason="no backend is involved: one round is enough")
SOURCE = ["a dog runs", "a cat runs", "the dog sleeps", "the cat sleeps", "a bird sings"] * 4
TARGET = ["ein Hund rennt", "eine Katze rennt", "der Hund schläft", "die Katze schläft", "ein Vogel singt"] * 4
PAIR = TokenizerPair(kt.Tokenizer.train(SOURCE, vocabulary_size=285), kt.Tokenizer.train(TARGET, vocabulary_size=300))

SOURCE_SIZE, SIZE = PAIR.source.vocabulary_size, PAIR.vocabulary_size  # 279 and 285


def new_model(**kwargs):
    sizes = {"d_model": 8, "num_heads": 2, "num_layers": 1, "tie_embeddings": "decoder", "seed": 1} | kwargs
    return kt.Transformer(SIZE, source_vocabulary_size=SOURCE_SIZE, **sizes)


@once
def test_each_side_has_its_own_ids_and_the_pair_answers_for_the_target():
    assert source_tokenizer(PAIR) is PAIR.source and source_tokenizer(PAIR.source) is PAIR.source
    assert PAIR.encode("der Hund") == PAIR.target.encode("der Hund") != PAIR.source.encode("der Hund")
    assert PAIR.decode(PAIR.encode("der Hund")) == "der Hund" and SOURCE_SIZE < SIZE
    assert vocabulary_sizes(PAIR) == f"{SOURCE_SIZE} source and {SIZE} target"
    assert vocabulary_sizes(PAIR.target) == str(SIZE)


@once
def test_other_special_ids_are_refused():
    class Other:
        vocabulary_size, pad_id, unk_id, bos_id, eos_id = 10, 0, 1, 5, 3
        encode = PAIR.target.encode

    with pytest.raises(ValueError, match="bos_id of 5 and 2"):
        TokenizerPair(Other(), PAIR.target)


def rows(batches):
    return sorted(
        (PAIR.source.decode(source), PAIR.target.decode(label))
        for inputs, labels in (batches[place] for place in range(len(batches)))
        for source, label in zip(inputs["source"], labels, strict=True)
        if label.any()
    )


@once
@pytest.mark.parametrize("sampling", [None, 0.1])
def test_batches_and_shards_cut_each_side_by_its_own(tmp_path, sampling):
    pytest.importorskip("pyarrow")
    prepare(PairStream(SOURCE, TARGET), PAIR, tmp_path / "p", shard_pairs=7, num_workers=1)
    kwargs = {"batch_tokens": 64, "sampling": sampling}
    text, shards = kt.Batches(SOURCE, TARGET, PAIR, **kwargs), kt.Batches(tmp_path / "p", **kwargs)
    assert shards.tokenizer == PAIR
    assert rows(text) == rows(shards) == sorted(zip(SOURCE, TARGET, strict=True))


@once
def test_inspection_counts_both_vocabularies():
    inspection = inspect_corpus(kt.Batches(SOURCE, TARGET, PAIR), num_samples=1)
    occurring = sum(
        len({number for text in texts for number in side.encode(text)})
        for side, texts in ((PAIR.source, SOURCE), (PAIR.target, TARGET))
    )
    assert inspection.coverage == pytest.approx(occurring / (SOURCE_SIZE + SIZE - 6))
    assert f"vocabulary: {SOURCE_SIZE} source and {SIZE} target pieces" in str(inspection)
    assert inspection.samples[0][0][-1] == "</s>"


@once
def test_impossible_models_are_refused():
    with pytest.raises(ValueError, match=rf'"all" is one table .* Received also source_vocabulary_size={SOURCE_SIZE}'):
        new_model(tie_embeddings="all")
    with pytest.raises(ValueError, match="source_vocabulary_size must be an integer from 1. Received: .*=0"):
        kt.Transformer(300, source_vocabulary_size=0, tie_embeddings=None)
    with pytest.raises(ValueError, match="below vocabulary_size=3"):
        kt.Transformer(300, source_vocabulary_size=3, tie_embeddings=None)
    model = new_model()
    with pytest.raises(ValueError, match="resize_vocabulary changes the one vocabulary"):
        model.resize_vocabulary(310)
    with pytest.raises(ValueError, match=f"the model has {SOURCE_SIZE} ids of the source, the tokenizer {SIZE}"):
        kt.Translator(model, PAIR.target)
    with pytest.raises(ValueError, match="one table for both sides"):
        kt.Translator(
            kt.Transformer(SIZE, d_model=8, num_heads=2, num_layers=1), TokenizerPair(PAIR.target, PAIR.target)
        )
    with pytest.raises(ValueError, match="must share their vocabulary"):
        kt.decoding.Ensemble([model, kt.Transformer(SIZE, d_model=8, num_heads=2, num_layers=1)])


def test_a_model_of_two_vocabularies_trains_and_translates_and_comes_back(tmp_path):
    model = new_model(num_decoder_layers=1)
    assert [tuple(w.shape) for w in (model.source_embedding.embeddings, model.target_embedding.embeddings)] == [
        (SOURCE_SIZE, 8),
        (SIZE, 8),
    ]
    model.compile()
    model.fit(kt.Batches(SOURCE, TARGET, PAIR, num_buckets=1), epochs=1, verbose=0)
    ids = {"source": np.array([[SOURCE_SIZE - 1, 3]]), "target": np.array([[2, SIZE - 1]])}
    assert model.predict(ids, verbose=0).shape == (1, 2, SIZE)
    with pytest.raises(ValueError, match=rf"source contain the id {SIZE - 1} .* from 0 to {SOURCE_SIZE - 1} "):
        model.predict({"source": ids["target"], "target": ids["target"]}, verbose=0)
    translator = kt.Translator(model, PAIR)
    translations = translator.translate(SOURCE[:2], beam_size=1, max_length=4)
    (scored,) = translator.score(SOURCE[:1], TARGET[:1])
    assert scored.pieces == PAIR.target.pieces(PAIR.target.encode(TARGET[0], add_eos=True))
    assert len(scored.alignment) == 3
    translator.save(tmp_path / "translator")
    loaded = kt.Translator.load(tmp_path / "translator")
    assert loaded.tokenizer == PAIR and loaded.model.source_vocabulary_size == SOURCE_SIZE
    assert loaded.translate(SOURCE[:2], beam_size=1, max_length=4) == translations


@once
def test_padding_is_looked_for_in_the_sources_own_table():
    class Careless(kt.Transformer):
        def encode(self, source, source_mask, positions=None, training=None):
            return super().encode(source, source_mask | True, positions, training)

    sizes = {"source_vocabulary_size": SOURCE_SIZE, "tie_embeddings": None, "seed": 1}
    sizes |= {"d_model": 8, "num_heads": 2, "num_layers": 1}
    assert "the source's padding is attended to" in str(attends_to_source_padding(adapt(Careless(SIZE, **sizes))))
    assert "finding" not in str(attends_to_source_padding(adapt(kt.Transformer(SIZE, **sizes))))


@once
def test_exports_that_hold_one_tokenizer_say_so(tmp_path):
    from keras_transformer.interchange import save_preset

    model = new_model()
    exports = {"onnx": kt.export.export_onnx, "ctranslate2": kt.export.export_ctranslate2}
    exports["tensorflow"] = kt.export.export_saved_model
    for library in [library for library in exports if importlib.util.find_spec(library) is not None]:
        with pytest.raises(ValueError, match=r"holds one tokenizer, for both sides\. Received: a TokenizerPair"):
            exports[library](model, PAIR, tmp_path / "export")
    with pytest.raises(ValueError, match=r"holds one tokenizer, for both sides\. Received: a TokenizerPair"):
        save_preset(kt.Translator(model, PAIR), tmp_path / "preset")
    assert not list(tmp_path.iterdir())


uncompiled = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="compiles nothing there; one round is enough"
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of a translator of two vocabularies, and both texts in files."""
    folder = tmp_path_factory.mktemp("saved")
    for name, lines in (("a.en", SOURCE), ("a.de", TARGET)):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    kt.Translator(new_model(preset="tiny"), PAIR).save(folder / "translator")
    return folder


@uncompiled
def test_evaluate_and_score_of_two_vocabularies(saved):
    """The figures are those of the translator's own outputs."""
    translator = kt.Translator.load(saved / "translator")
    files = ["--source", str(saved / "a.en"), "--target", str(saved / "a.de")]
    result = CliRunner().invoke(main, ["evaluate", str(saved / "translator"), *files, "--beam-size", "1"])
    expected = bleu(translator.translate(SOURCE, beam_size=1), TARGET)
    assert result.exit_code == 0 and str(expected) in result.output.splitlines(), result.output
    result = CliRunner().invoke(main, ["score", str(saved / "translator"), *files])
    expected = [f"{scored.log_probability:.6f}" for scored in translator.score(SOURCE, TARGET)]
    assert result.exit_code == 0 and result.output.splitlines() == expected, result.output


@uncompiled
def test_a_certificate_has_every_stage_of_two_vocabularies(saved):
    plan = Plan(
        str(saved / "translator"),
        *(str(saved / name) for name in ("a.en", "a.de")),
        steps=2,
        sentences=3,
        pairs=10,
        batch_tokens=64,
        beam_size=2,
    )
    subject = Subject(plan)
    row = PAIR.source.encode(SOURCE[0], add_eos=True)
    assert subject.sentences[0, : len(row)].tolist() == row
    found = {stage: parts() for stage, parts in stages(subject).items()}
    assert "untied: loss curve" in found and found.keys() == BOUNDS.keys()
    assert all(np.isfinite(values).all() for parts in found.values() for values in parts.values())
    sizes = sorted(len(values) for path, values in found["gradients"].items() if path.endswith("embeddings"))
    assert sizes == [SOURCE_SIZE, SIZE]  # a table for each
    beam, fresh = found["beam search"], Subject(plan)
    scores = rescored(fresh, searches(fresh)["beam search"], np.arange(3), beam["ids"][:, 0])
    np.testing.assert_allclose(scores, beam["scores"][:, 0], atol=1e-4)


@uncompiled
def test_a_server_of_two_vocabularies(saved):
    pytest.importorskip("fastapi")
    pytest.importorskip("prometheus_client")
    from fastapi.testclient import TestClient

    from keras_transformer.serving.app import create_app
    from keras_transformer.serving.engine import load_engine
    from keras_transformer.serving.settings import Settings

    engine = load_engine(saved / "translator", "pair")
    engine.warm_up(2)
    expected = kt.Translator.load(saved / "translator").translate(SOURCE[:2], beam_size=2)
    ids = [PAIR.source.encode(text, add_eos=True) for text in SOURCE[:2]]
    with TestClient(create_app(engine, Settings(warm_up=False, beam_size=2))) as client:
        said = client.post("/v1/translate", json={"texts": SOURCE[:2], "attention": True}).json()["translations"]
        assert [one["text"] for one in said] == expected
        assert [one["source_pieces"] for one in said] == [PAIR.source.pieces(row) for row in ids]
        best = said[0]["hypotheses"][0]
        assert set(best["pieces"]) <= set(PAIR.target.pieces(range(SIZE))) and best["text"] == expected[0]
        assert {len(row) for row in best["attention"]} == {len(ids[0])}
        events = client.post("/v1/translate/stream", json={"text": SOURCE[0]}).text
        assert '"done": true' in events
        address = "/v1/models/pair:predict"
        (outputs,) = client.post(address, json={"instances": ids[:1]}).json()["predictions"]
        assert PAIR.decode(outputs["ids"][0]) == expected[0]
        refused = client.post(address, json={"instances": [[SIZE - 1, 3]]})  # an id of the target alone
        assert refused.status_code == 422 and f"ids below {SOURCE_SIZE}" in refused.text


@pytest.mark.usefixtures("tiny_is_one_layer")
def test_a_run_with_separate_vocabularies(tmp_path):
    for name, lines in (("a.en", SOURCE), ("a.de", TARGET)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    files = str(tmp_path / "a.en"), str(tmp_path / "a.de")
    settings = Settings(*files, *files, vocabulary_size=285, separate_vocabularies=True)
    run = Run(tmp_path / "run", settings)
    run.train(epochs=1)
    assert isinstance(run.tokenizer, TokenizerPair) and run.model.tie_embeddings == "decoder"
    again = Run(tmp_path / "run", settings)
    assert again.updates == run.updates and again.tokenizer == run.tokenizer
    assert len(kt.Translator.load(tmp_path / "run" / "translator").translate(["a dog"], beam_size=1)) == 1
    with pytest.raises(ValueError, match="holds a run with separate_vocabularies=True"):
        Run(tmp_path / "run", dataclasses.replace(settings, separate_vocabularies=False))
