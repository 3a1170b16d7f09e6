"""Makes saved_models/anchor: ``python tests/make_anchor.py``. Only when the file format changes; see CONTRIBUTING.md."""

import json
from pathlib import Path

import keras
import numpy as np

from keras_transformer import __version__
from keras_transformer.demo_run import EPOCHS, train_demo
from keras_transformer.text.demo import demo_corpus

ANCHOR = Path(__file__).resolve().parents[1] / "saved_models" / "anchor"


def main():
    corpus = demo_corpus()
    translator = train_demo(seed=1, corpus=corpus)
    translator.save(ANCHOR)
    translations = translator.translate(corpus.test.source, beam_size=1)
    exact = np.mean([one == other for one, other in zip(translations, corpus.test.target, strict=True)])
    card = {
        "what": "Translator of the built-in English-German grammar, kept to prove that saved files still load and translate.",
        "made_by": "python tests/make_anchor.py",
        "version": __version__,
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "parameters": translator.model.count_params(),
        "epochs": EPOCHS,
        "exact_match_of_600_held_out": round(float(exact), 4),
        "verbatim": dict(zip(corpus.test.source[:24], translations[:24], strict=True)),
    }
    (ANCHOR / "card.json").write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"exact_match={exact:.3f}")


if __name__ == "__main__":
    main()
