import hashlib
import json
import shutil

import keras
import pytest
from exported_models import TOKENIZER, make_model
from make_anchor import ANCHOR

from keras_transformer.export.card import data_of_run, facts_of_run, write_card

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")


def test_a_run_folder_tells_how_its_model_was_made(tmp_path):
    assert facts_of_run(tmp_path) == data_of_run(tmp_path) == {}
    (tmp_path / "train.en").write_text("a dog\n")
    settings = {
        "source": str(tmp_path / "train.en"),
        "target": str(tmp_path / "gone.de"),
        "valid_source": None,
        "seed": 1,
    }
    (tmp_path / "run.yaml").write_text(json.dumps(settings))  # JSON is YAML
    (tmp_path / "certificate.json").write_text('{"agreed": true}')
    made_by = {"command": "keras-transformer train", "settings": settings}
    assert facts_of_run(tmp_path) == {"made_by": made_by, "certificate": {"agreed": True}}
    assert data_of_run(tmp_path)["data"] == {
        settings["source"]: hashlib.sha256(b"a dog\n").hexdigest(),
        settings["target"]: "no longer there",
    }


def test_a_saved_translators_card_and_certificate_are_told(tmp_path):
    facts = facts_of_run(ANCHOR)
    assert facts["made_by"] == "python tests/make_anchor.py" and facts["certificate"]["verdict"] == "agree"
    write_card(tmp_path, make_model(), "a trial", "It is not.", facts)
    assert facts_of_run(tmp_path) == facts  # what is not stated is no fact
    text = (tmp_path / "README.md").read_text()
    assert "## How it was made\n\npython tests/make_anchor.py\n" in text
    told = text.split("## Agreement of the backends\n\n")[1].split("##")[0]
    assert told.startswith("Verdict: agree.") and "- logits: jax 1.64e-06, torch 1.82e-06; bound 1e-05 (" in told
    assert "{" not in told


def test_a_certificate_of_other_weights_is_not_told(tmp_path):
    """As of a run that was trained on after it."""
    shutil.copytree(ANCHOR, tmp_path / "translator")
    shutil.copy(ANCHOR / "certificate.json", tmp_path)
    assert facts_of_run(tmp_path)["certificate"]["verdict"] == "agree"
    weights = tmp_path / "translator" / "model.weights.h5"
    weights.write_bytes(weights.read_bytes() + b"more")
    assert facts_of_run(tmp_path)["certificate"].startswith("none of these weights")


@pytest.mark.parametrize(
    ("name", "content"),
    [("run.yaml", "a: ["), ("run.yaml", "7"), ("certificate.json", "{"), ("card.json", "[1]")],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"{name} cannot be used: damaged: .* Take it out"):
        facts_of_run(tmp_path)


def test_says_what_is_known_and_what_is_not(tmp_path):
    model = make_model()
    TOKENIZER.save(tmp_path / "tokenizer.model")
    card = write_card(tmp_path, model, "a trial", "It is not.", {"licence": "CC0", "scores": {"bleu": 31.5}, "size": 3})
    assert card == json.loads((tmp_path / "card.json").read_text())
    assert (card["licence"], card["data"], card["certificate"]) == ("CC0", "not stated", "not stated")
    assert card["parameters"] == model.count_params() and card["model"] == model.get_config()
    assert card["tokenizer_sha256"] == hashlib.sha256(TOKENIZER.to_bytes()).hexdigest()
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("# a trial of a Transformer\n") and "## Licence\n\nCC0\n" in text
    for heading in ("Use", "How it was made", "Data it was trained on", "Scores", "Agreement of the backends"):
        assert f"## {heading}\n" in text
    assert '"bleu": 31.5' in text and '"size": 3' in text
