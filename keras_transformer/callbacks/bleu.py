"""BLEU in the logs, epoch by epoch."""

import numbers
from pathlib import Path

import keras

from keras_transformer.callbacks.interruption import interruptible
from keras_transformer.evaluation import bleu
from keras_transformer.text.corpus import read_pairs
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.translator import Translator


class Bleu(keras.callbacks.Callback):
    """Translates validation text after an epoch and writes ``val_bleu`` into the logs.

    Put it before callbacks that look at val_bleu: ``ModelCheckpoint(..., monitor="val_bleu", mode="max")``.

    Args:
        source: path of a text file (plain or gzip), or a list of str.
        target: its translations, line by line.
        tokenizer: the Tokenizer of the model.
        beam_size: 1 for greedy search, the default, since it is run often.
        every: epochs from one time to the next.
        max_sentences: how many are translated, evenly spread over the text; None for all.

    Attributes:
        score: the last Score, with its signature.
        translations: the last translations, list of str.

    Raises:
        ValueError: the texts differ in length or are empty, an argument is impossible, or, when training begins, the tokenizer is
            not the model's.

    Example:

        model.fit(train, validation_data=valid, epochs=20, callbacks=[kt.callbacks.Bleu("val.en", "val.de", tokenizer)])
    """

    def __init__(
        self,
        source: str | Path | list[str],
        target: str | Path | list[str],
        tokenizer: Tokenizer,
        beam_size: int = 1,
        every: int = 1,
        max_sentences: int | None = None,
    ):
        super().__init__()
        for name, value in {"every": every, "beam_size": beam_size, "max_sentences": max_sentences}.items():
            if value is not None and (not isinstance(value, numbers.Integral) or value < 1):
                raise ValueError(f"{name} must be an integer from 1. Received: {name}={value!r}.")
        corpus = read_pairs(source, target)
        step = 1 if max_sentences is None else max(-(-len(corpus) // max_sentences), 1)
        self.source, self.target = corpus.source[::step], corpus.target[::step]
        self.tokenizer = tokenizer
        self.beam_size = beam_size
        self.every = every
        self.max_sentences = max_sentences
        self.score = None
        self.translations = None
        self._translator = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        if self._translator is None or self._translator.model is not self.model:
            self._translator = Translator(self.model, self.tokenizer)  # now: a wrong tokenizer is told before an epoch

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        if (epoch + 1) % self.every:
            return
        with interruptible():
            self.translations = self._translator.translate(self.source, beam_size=self.beam_size)
        self.score = bleu(self.translations, self.target)
        if logs is not None:
            logs["val_bleu"] = self.score.value
