"""A run: one folder with all that training makes, which training again on the same folder continues.

run.yaml          the settings it was begun with
tokenizer.model   the vocabulary
checkpoints/      weights and optimizer after the last epochs
translator/       model and tokenizer after the best epoch, by validation BLEU, else loss
curves.csv        loss, perplexity, accuracy, learning rate, BLEU, epoch by epoch; curves.png draws them
tensorboard/      the same for TensorBoard
"""

import dataclasses
import os
from pathlib import Path

import keras
import yaml

from keras_transformer.callbacks import (
    Bleu,
    Checkpoints,
    LearningCurves,
    LearningRate,
    Limit,
    ProgressBar,
    TensorBoard,
    read_curves,
)
from keras_transformer.checkpoints import latest_checkpoint, load_checkpoint
from keras_transformer.presets import get_preset
from keras_transformer.text.batches import Batches
from keras_transformer.text.corpus import read_pairs
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.transformer import Transformer
from keras_transformer.translator import Translator

SETTINGS_FILE = "run.yaml"
TOKENIZER_FILE = "tokenizer.model"


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run trains on and how; what decides the model cannot change when the run goes on.

    Attributes:
        source: path of the training text.
        target: path of its translations.
        valid_source: path of validation text, or None.
        valid_target: path of its translations, or None.
        preset: name of the preset that gives sizes and recipe.
        batch_tokens: most padded positions of a batch; None for the preset's.
        vocabulary_size: pieces; None for the preset's.
        seed: of weights and order.
    """

    source: str
    target: str
    valid_source: str | None = None
    valid_target: str | None = None
    preset: str = "tiny"
    batch_tokens: int | None = None
    vocabulary_size: int | None = None
    seed: int = 1

    def __post_init__(self):
        get_preset(self.preset)
        if (self.valid_source is None) != (self.valid_target is None):
            raise ValueError(
                "Validation needs both sides. "
                f"Received: valid_source={self.valid_source!r}, valid_target={self.valid_target!r}."
            )


class Run:
    """Trains a Transformer in a folder, from the start or from where the folder stands.

    Args:
        folder: path of the run.
        settings: Settings.
        file: where progress is printed; None for standard error.

    Raises:
        ValueError: the folder holds a run with other settings, or the texts are not fit to train on.

    Example:

        run = Run("runs/en-de", Settings("train.en", "train.de", "val.en", "val.de", preset="tiny"))
        run.train(minutes=30)
        translator = kt.Translator.load("runs/en-de/translator")
    """

    def __init__(self, folder, settings, file=None):
        self.folder = Path(folder)
        self.settings = settings
        self.file = file
        recipe = get_preset(settings.preset)["recipe"]
        self._check_settings()
        # All text is read before anything is written: a wrong file leaves no folder.
        pairs = read_pairs(settings.source, settings.target)
        validation = None
        if settings.valid_source is not None:
            validation = read_pairs(settings.valid_source, settings.valid_target)
        self._make_tokenizer(pairs, settings.vocabulary_size or recipe["vocabulary_size"])
        batching = {"batch_tokens": settings.batch_tokens or recipe["batch_tokens"]}
        self.batches = Batches(pairs.source, pairs.target, self.tokenizer, seed=settings.seed, **batching)
        self.validation = None
        if validation is not None:
            self.validation = Batches(
                validation.source, validation.target, self.tokenizer, shuffle=False, num_buckets=4, **batching
            )
            self._bleu = Bleu(validation.source, validation.target, self.tokenizer, max_sentences=500)
        self.model = Transformer.from_preset(settings.preset, self.tokenizer.vocabulary_size, seed=settings.seed)
        self.model.compile()
        self.epoch = 0
        checkpoint = latest_checkpoint(self.folder / "checkpoints")
        if checkpoint is not None:
            self.epoch = load_checkpoint(self.model, checkpoint)["epoch"]
        (self.folder / SETTINGS_FILE).write_text(yaml.safe_dump(dataclasses.asdict(settings)), encoding="utf-8")

    def _check_settings(self):
        path = self.folder / SETTINGS_FILE
        if not path.is_file():
            return
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
        now = dataclasses.asdict(self.settings)
        for name in ("preset", "vocabulary_size"):
            if before.get(name) != now[name]:
                raise ValueError(
                    f"{self.folder} holds a run with {name}={before.get(name)!r}. Received: {name}={now[name]!r}. "
                    "Give the same, or another output folder."
                )

    def _make_tokenizer(self, pairs, vocabulary_size):
        path = self.folder / TOKENIZER_FILE
        if path.is_file():
            self.tokenizer = Tokenizer.load(path)
            return
        self.tokenizer = Tokenizer.train([*pairs.source, *pairs.target], vocabulary_size=vocabulary_size)
        self.folder.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f".{TOKENIZER_FILE}-new")
        self.tokenizer.save(new)
        os.replace(new, path)

    def train(self, epochs=None, updates=None, minutes=None):
        """Trains until the first of the limits is reached, each counted from the run's beginning but for ``minutes``, from now.

        Args:
            epochs: in all; None for no limit if another is given, else 20.
            updates: in all, or None.
            minutes: or None.
        """
        if epochs is None:
            epochs = 20 if updates is None and minutes is None else 10**6
        if self.epoch >= epochs or (updates is not None and int(self.model.optimizer.iterations) >= updates):
            self._save_translator_if_missing()
            return
        self.batches.set_epoch(self.epoch)
        callbacks = [self._bleu] if self.validation is not None else []
        callbacks += [
            LearningRate(),
            ProgressBar(self.batches.num_tokens / len(self.batches), file=self.file),
            LearningCurves(self.folder),
            TensorBoard(self.folder / "tensorboard"),
            Checkpoints(self.folder / "checkpoints"),
            _BestTranslator(self.folder, self.tokenizer),
            Limit(minutes, updates),
        ]
        self.model.fit(
            self.batches,
            validation_data=self.validation,
            initial_epoch=self.epoch,
            epochs=epochs,
            callbacks=callbacks,
            verbose=0,
        )
        self._save_translator_if_missing()

    def _save_translator_if_missing(self):
        if not (self.folder / "translator").exists():
            Translator(self.model, self.tokenizer).save(self.folder / "translator")


class _BestTranslator(keras.callbacks.Callback):
    """Saves the translator whenever the best epoch so far ends; the table of curves remembers earlier ones."""

    def __init__(self, folder, tokenizer):
        super().__init__()
        self.folder = folder
        self.tokenizer = tokenizer

    def on_epoch_end(self, epoch, logs=None):
        earlier = [row for row in read_curves(self.folder / "curves.csv") if row["epoch"] <= epoch]
        if _merit(logs) >= max(map(_merit, earlier), default=float("-inf")):
            Translator(self.model, self.tokenizer).save(self.folder / "translator")


def _merit(row):
    """The higher the better: validation BLEU, else validation loss, else the order in time."""
    if row.get("val_bleu") is not None:
        return row["val_bleu"]
    return -row["val_loss"] if row.get("val_loss") is not None else 0.0
