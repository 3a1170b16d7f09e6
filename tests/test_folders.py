"""The folder of an export. What a manifest finds in general is in tests/reliability."""

import contextlib
import shutil

import keras
import pytest
from exported_models import TOKENIZER, make_model
from make_anchor import ANCHOR

from keras_transformer.export import verify_export
from keras_transformer.export.folders import checked_tokenizer, new_export

once = pytest.mark.skipif(keras.backend.backend() != "torch", reason="does not depend on the backend")


@once
def test_becomes_the_folder_as_a_whole_and_replaces_an_export_alone(tmp_path):
    for content in ("first", "second"):
        with new_export(tmp_path / "export") as folder:
            (folder / "card.json").write_text(content)
        verify_export(tmp_path / "export")
    with contextlib.suppress(ZeroDivisionError), new_export(tmp_path / "export") as folder:
        (folder / "card.json").write_text("third")
        raise ZeroDivisionError
    assert (tmp_path / "export" / "card.json").read_text() == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["export"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match="holds other files"), new_export(tmp_path / "thesis"):
        pass


@once
def test_a_saved_translator_with_a_card_is_no_earlier_export(tmp_path):
    """Such as saved_models/anchor: exported onto itself it would be gone."""
    from click.testing import CliRunner

    from keras_transformer.cli import main

    shutil.copytree(ANCHOR, tmp_path / "anchor")
    before = {path.name: path.read_bytes() for path in (tmp_path / "anchor").iterdir()}
    lost = "holds a saved model, which would be lost: there is a model.json. Name a new folder"
    with pytest.raises(ValueError, match=lost), new_export(tmp_path / "anchor"):
        pass
    result = CliRunner().invoke(main, ["export", str(ANCHOR), str(tmp_path / "anchor"), "--format", "onnx"])
    assert result.exit_code == 1 and "holds a saved model" in result.output
    assert {path.name: path.read_bytes() for path in (tmp_path / "anchor").iterdir()} == before


@once
def test_every_flipped_bit_is_refused_with_the_file_it_is_in(tmp_path):
    with new_export(tmp_path / "export") as folder:
        (folder / "card.json").write_text("{}")
        (folder / "1").mkdir()
        (folder / "1" / "weights").write_bytes(b"\x00\xff")
    for name in ("card.json", "1/weights", "manifest.json"):
        path = tmp_path / "export" / name
        whole = path.read_bytes()
        for bit in range(0, 8 * len(whole), max(len(whole) // 4, 1)):
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match=f"{name} cannot be used: corrupt"):
                verify_export(tmp_path / "export")
        path.write_bytes(whole)
    verify_export(tmp_path / "export")
    (tmp_path / "export" / "1" / "weights").unlink()
    with pytest.raises(ValueError, match=r"1/weights cannot be used: .*missing"):
        verify_export(tmp_path / "export")
    with pytest.raises(ValueError, match=r"manifest.json is missing"):
        verify_export(tmp_path)


@once
def test_the_tokenizer_must_be_the_models_and_one_that_can_be_read():
    class Other:
        vocabulary_size, pad_id, bos_id, eos_id = TOKENIZER.vocabulary_size, 0, 2, 3

    model = make_model()
    checked_tokenizer(model, TOKENIZER, "An export")
    checked_tokenizer(model, Other(), "An export", sentencepiece=False)
    with pytest.raises(ValueError, match=r"An export holds the tokenizer. Received: tokenizer=None"):
        checked_tokenizer(model, None, "An export")
    with pytest.raises(ValueError, match="An export holds its tokenizer as a SentencePiece model. Received: a Other"):
        checked_tokenizer(model, Other(), "An export")
    Other.eos_id = 4
    with pytest.raises(ValueError, match="do not belong together: eos_id 3 and 4"):
        checked_tokenizer(model, Other(), "An export", sentencepiece=False)
