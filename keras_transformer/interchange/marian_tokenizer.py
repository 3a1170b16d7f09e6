"""The tokenizer of a MarianMT model: two SentencePiece models, one vocabulary. Text <-> ids, as text.Tokenizer does it."""

import json
from pathlib import Path

import sentencepiece

from keras_transformer.text.ids import check_ids, is_batch, text_ids


class MarianTokenizer:
    """Text to ids by source.spm, ids to text by target.spm, both through vocab.json.

    What a Translator asks of a tokenizer. A leading language code (">>fra<<") of a multilingual model stays one piece. Hugging
    Face's tokenizer normalises punctuation with sacremoses first, if that is installed; this one never does.

    Args:
        folder: holds source.spm, target.spm and vocab.json.

    Raises:
        ValueError: a file is missing, or vocab.json lacks </s>, <unk> or <pad>.

    Example:

        from keras_transformer.interchange import MarianTokenizer
        tokenizer = MarianTokenizer("opus-mt-en-de")
        tokenizer.decode(tokenizer.encode("A dog runs.", add_eos=True))
    """

    def __init__(self, folder):
        folder = Path(folder)
        for name in ("source.spm", "target.spm", "vocab.json"):
            if not (folder / name).is_file():
                raise ValueError(
                    f"{folder} holds no MarianMT tokenizer: {name} is missing. Expected the model's own folder."
                )
        self._source = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
        self._target = sentencepiece.SentencePieceProcessor(model_file=str(folder / "target.spm"))
        self._ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        missing = [piece for piece in ("</s>", "<unk>", "<pad>") if piece not in self._ids]
        if missing:
            raise ValueError(
                f"{folder / 'vocab.json'} lacks {', '.join(missing)}. Expected the vocabulary of a MarianMT model."
            )
        self._pieces = {number: piece for piece, number in self._ids.items()}
        self.eos_id, self.unk_id, self.pad_id = (self._ids[piece] for piece in ("</s>", "<unk>", "<pad>"))
        self.bos_id = max(self._pieces) + 1  # which load_marian adds
        self.vocabulary_size = self.bos_id + 1

    def encode(self, text, add_bos=False, add_eos=False):
        """Ids of a text, or of each text of a list."""
        if not isinstance(text, str):
            return [self.encode(one, add_bos, add_eos) for one in text]
        code, end = "", text.find("<<")
        if text.startswith(">>") and end > 0:
            code, text = text[: end + 2], text[end + 2 :]
        pieces = ([code] if code else []) + self._source.encode(text, out_type=str)
        ids = [self._ids.get(piece, self.unk_id) for piece in pieces]
        return [self.bos_id] * add_bos + ids + [self.eos_id] * add_eos

    def decode(self, ids):
        """Text of a row of ids, or of each row: what follows eos is ignored, and special ids are dropped."""
        if is_batch(ids):
            return [self.decode(row) for row in ids]
        check_ids(ids, self.vocabulary_size)
        said = text_ids(ids, self.eos_id, (self.pad_id, self.unk_id, self.bos_id))
        return self._target.decode([self._pieces[x] for x in said])

    def pieces(self, ids):
        """The piece behind each id of one row."""
        return [self._pieces.get(int(x), "<s>") for x in ids]

    def save(self, path):
        raise ValueError(
            f"A MarianMT tokenizer has three files and cannot be saved as {path}. Keep the folder it came from, and save the model "
            "with model.save."
        )
