"""The file of a tokenizer of whatever kind: it comes back, or what is wrong with it is told with its name."""

import keras
import pytest

import keras_transformer as kt
from keras_transformer.text import TokenizerPair, load_tokenizer
from keras_transformer.text.tokenizer_files import tokenizer_from_bytes

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="no backend is involved: one round is enough"
)
OURS = kt.Tokenizer.train(["a dog runs", "the dog sleeps"], vocabulary_size=280)


def test_our_own_comes_back(tmp_path):
    OURS.save(tmp_path / "t.model")
    assert load_tokenizer(tmp_path / "t.model") == OURS
    assert tokenizer_from_bytes(OURS.to_bytes()) == OURS
    with pytest.raises(ValueError, match="cannot be read"):
        load_tokenizer(tmp_path / "none")


def test_a_pair_comes_back_from_one_file(tmp_path):
    pair = TokenizerPair(OURS, kt.Tokenizer.train(["ein Hund rennt"], vocabulary_size=280))
    pair.save(tmp_path / "new" / "tokenizer.model")
    assert load_tokenizer(tmp_path / "new" / "tokenizer.model") == pair
    assert TokenizerPair(pair.target, pair.source) != pair


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"a": 1}', "no tokenizer of Hugging Face's"),
        (b'{"kind": "pair", "source": "AAAA"}', "damaged: KeyError 'target'"),
        (b'{"kind": "pair", "source": "AAAA", "target": 5}', "damaged: TypeError"),
        (b'{"kind": "tokenizers"}', "damaged"),
        (b'{"kind": ', "damaged: JSONDecodeError"),
    ],
)
def test_json_that_is_no_tokenizer_is_refused_by_name(tmp_path, content, told):
    pytest.importorskip("tokenizers")
    (tmp_path / "t.json").write_bytes(content)
    with pytest.raises(ValueError, match=f"t.json: .*{told}"):
        load_tokenizer(tmp_path / "t.json")
