"""A run: one folder with all that training makes, which training again on the same folder continues.

run.yaml          the settings it was begun with; written last, so that a run which could not begin leaves none
tokenizer.model   the vocabulary, with its sha256 beside it: another would make other ids of the same text
checkpoints/      all that training is made of, after the last epochs, and where it stood ten minutes ago or was broken off
lock.json         pid and host of the process that trains, while one does
translator/       model and tokenizer after the best epoch, by validation BLEU or what else is monitored
curves.csv        loss, perplexity, accuracy, learning rate, BLEU, epoch by epoch; curves.png draws them
tensorboard/      the same for TensorBoard
"""

import dataclasses
import math
import os
import shutil
from pathlib import Path

import keras
import yaml

from keras_transformer.artifacts import (
    LOCK_FILE,
    SIDECAR_SUFFIX,
    FolderLock,
    check_sidecar,
    write_file,
    write_with_sidecar,
)
from keras_transformer.backend_training import device_memory, is_out_of_memory
from keras_transformer.callbacks import (
    Bleu,
    Checkpoints,
    EarlyStopping,
    FiniteGuard,
    Interrupted,
    Interruption,
    LearningCurves,
    LearningRate,
    Limit,
    ProgressBar,
    Resume,
    TensorBoard,
    epochs_since_best,
)
from keras_transformer.checkpoints import latest_checkpoint, load_checkpoint
from keras_transformer.memory import OutOfMemory, advice, step_memory
from keras_transformer.optimizers import AccumulateGradients, SkipNonFinite
from keras_transformer.presets import get_preset
from keras_transformer.text.batches import Batches
from keras_transformer.text.corpus import read_pairs
from keras_transformer.text.pair import TokenizerPair
from keras_transformer.text.tokenizer import Tokenizer
from keras_transformer.text.tokenizer_files import load_tokenizer
from keras_transformer.transformer import Transformer
from keras_transformer.translator import TOKENIZER_FILE, Translator

SETTINGS_FILE = "run.yaml"


_FROM_RECIPE = ("batch_tokens", "vocabulary_size")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a run trains on and how; none of it can change when the run goes on, but for ``remat``, which changes no number.

    Attributes:
        source: path of the training text; with target=None of a file of both sides, or the folder of prepared text.
        target: path of its translations, or None.
        valid_source: path of validation text, or None.
        valid_target: path of its translations, or None.
        preset: name of the preset that gives sizes and recipe.
        batch_tokens: most padded positions of a batch; None for the preset's.
        vocabulary_size: pieces; None for the preset's, or those of prepared text.
        seed: of weights and order.
        accumulate: batches whose gradients make one update; see AccumulateGradients.
        remat: whether training computes activations twice to save memory; see Transformer.
        separate_vocabularies: whether source and target get a vocabulary each, of vocabulary_size pieces; prepared text has what it
            was prepared with.
        dtype: Keras's policy of the model, such as "mixed_bfloat16"; None for the global one.
    """

    source: str
    target: str | None = None
    valid_source: str | None = None
    valid_target: str | None = None
    preset: str = "tiny"
    batch_tokens: int | None = None
    vocabulary_size: int | None = None
    seed: int = 1
    accumulate: int = 1
    remat: bool = False
    separate_vocabularies: bool = False
    dtype: str | None = None

    def __post_init__(self):
        get_preset(self.preset)
        if (self.valid_source is None) != (self.valid_target is None):
            raise ValueError(
                "Validation needs both sides. "
                f"Received: valid_source={self.valid_source!r}, valid_target={self.valid_target!r}."
            )
        if self.is_prepared and self.target is not None:
            raise ValueError(
                f"{self.source} is a folder, as prepared text is, and that holds both sides. Received also "
                f"target={self.target!r}. Give no target, or a file as source."
            )

    @property
    def is_prepared(self):
        """Whether the source is a folder of prepared text."""
        return os.path.isdir(self.source)

    def filled(self):
        """All settings as a dict, with the preset's values in place of None."""
        values = dataclasses.asdict(self)
        recipe = get_preset(self.preset)["recipe"]
        values |= {name: recipe[name] for name in _FROM_RECIPE if values[name] is None}
        return values | {"dtype": self.dtype or keras.config.dtype_policy().name}

    @classmethod
    def read(cls, path):
        """Those that a run wrote.

        Raises:
            ValueError: the file does not hold settings.
        """
        try:
            return cls(**yaml.safe_load(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"{path} does not hold the settings of a run: {reason}. Expected what train wrote when the run began. "
                "Write the file anew with those settings, or give another output folder."
            ) from None

    def write(self, path):
        """Writes them so that a kill leaves the whole file or none."""
        write_file(path, yaml.safe_dump(dataclasses.asdict(self)).encode("utf-8"))


class Run:
    """Trains a Transformer in a folder, from the start or from where the folder stands.

    Args:
        folder: path of the run.
        settings: Settings.
        file: where progress is printed; None for standard error.
        num_workers: processes that lay batches out ahead of time; see Batches. They change no batch.

    Raises:
        ValueError: the folder holds a run with other settings, or the texts are not fit to train on.
        ArtifactError: a ValueError: the run's tokenizer or newest checkpoint is damaged.

    Example:

        run = Run("runs/en-de", Settings("train.en", "train.de", "val.en", "val.de", preset="tiny"))
        run.train(minutes=30)
        translator = kt.Translator.load("runs/en-de/translator")
    """

    def __init__(self, folder, settings, file=None, num_workers=0):
        self.folder = Path(folder)
        self.settings = settings
        self.file = file
        filled = settings.filled()
        begun = self._is_begun()
        # All text is read before anything is written: a wrong file leaves no folder.
        text = settings.source if settings.is_prepared else read_pairs(settings.source, settings.target)
        validation = None
        if settings.valid_source is not None:
            validation = read_pairs(settings.valid_source, settings.valid_target)
        tokenizer = self._own_tokenizer() if begun else None
        if tokenizer is None and not settings.is_prepared:
            tokenizer = _trained_tokenizer(text, filled["vocabulary_size"], settings.separate_vocabularies)
        batching = {"batch_tokens": filled["batch_tokens"]}
        self.batches = Batches(
            text,
            tokenizer=None if settings.is_prepared else tokenizer,
            seed=settings.seed,
            num_workers=num_workers,
            **batching,
        )
        self.tokenizer = self.batches.tokenizer
        if settings.is_prepared:
            self._check_prepared(tokenizer)
        self.validation = None
        self.validation_skipped = {}
        if validation is not None:
            self.validation = Batches(validation, tokenizer=self.tokenizer, shuffle=False, num_buckets=4, **batching)
            self.validation_skipped = self.validation.skipped
            self._bleu = Bleu(validation.source, validation.target, self.tokenizer, max_sentences=500)
        self.model = _compiled_model(settings, self.tokenizer)
        self.epoch, self.history = 0, []
        checkpoint = latest_checkpoint(self.folder / "checkpoints")
        if checkpoint is not None:
            state = load_checkpoint(self.model, checkpoint)
            self.epoch, self.history = state["epoch"], state["history"]

    def begin(self):
        """Writes tokenizer and settings into the folder, unless it holds this run already. ``train`` does so first.

        Raises:
            ValueError: by now it holds another run, or other files.
            FolderInUse: a ValueError: another process trains in the folder.
        """
        with FolderLock(self.folder):
            if self._is_begun():
                return
            write_with_sidecar(self.folder / TOKENIZER_FILE, lambda new: new.write_bytes(self.tokenizer.to_bytes()))
            # The global policy is each process's own: what this run has must stand in its record.
            dataclasses.replace(self.settings, dtype=self.settings.filled()["dtype"]).write(self.folder / SETTINGS_FILE)

    def _is_begun(self):
        """Whether the folder holds a run, which then must be one with these settings."""
        path = self.folder / SETTINGS_FILE
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"The output of a run is a folder. Received: the file {self.folder}. Name a new folder.")
        if path.is_file():
            self._check_settings(Settings.read(path).filled(), self.settings.filled())
            return True
        if latest_checkpoint(self.folder / "checkpoints") is not None:
            raise ValueError(
                f"{self.folder} holds checkpoints, but no {SETTINGS_FILE}, which tells what they belong to. Put the file "
                "back, or give another output folder."
            )
        # What a kill at the very beginning leaves is made anew.
        sidecar = TOKENIZER_FILE + SIDECAR_SUFFIX
        left = {
            TOKENIZER_FILE,
            sidecar,
            f".new-{TOKENIZER_FILE}",
            f".{sidecar}-new",
            f".{SETTINGS_FILE}-new",
            LOCK_FILE,
        }
        if self.folder.is_dir() and any(path.name not in left for path in self.folder.iterdir()):
            raise ValueError(
                f"{self.folder} holds other files, among which a run would be lost: there is no {SETTINGS_FILE}. Give a new "
                "or empty output folder."
            )
        return False

    def _own_tokenizer(self):
        path = self.folder / TOKENIZER_FILE
        if path.with_name(path.name + SIDECAR_SUFFIX).exists():  # a run begun by an earlier release has none
            check_sidecar(path)
        return load_tokenizer(path)

    def _check_settings(self, before, now):
        different = [name for name in before if name != "remat" and not _is_same(name, before[name], now[name])]
        if different:
            held = ", ".join(f"{name}={before[name]!r}" for name in different)
            received = ", ".join(f"{name}={now[name]!r}" for name in different)
            raise ValueError(
                f"{self.folder} holds a run with {held}. Received: {received}. Give the same, or another output folder."
            )

    def _check_prepared(self, begun_with):
        """Whether the tokenizer of prepared text is the one that is asked for, and the one the run was begun with."""
        size, source = self.settings.vocabulary_size, self.settings.source
        if size is not None and size != self.tokenizer.vocabulary_size:
            raise ValueError(
                f"{source} was prepared with a vocabulary of {self.tokenizer.vocabulary_size} pieces. Received: "
                f"vocabulary_size={size}. Leave it out, or prepare the text with it."
            )
        if self.settings.separate_vocabularies and not isinstance(self.tokenizer, TokenizerPair):
            raise ValueError(
                f"{source} was prepared with one vocabulary for both sides. Received: separate_vocabularies=True. Leave it out, "
                "or prepare the text with it."
            )
        if begun_with is not None and begun_with != self.tokenizer:
            raise ValueError(
                f"{source} was prepared with another tokenizer than {self.folder} was begun with. Prepare the text with "
                f"--tokenizer {self.folder / TOKENIZER_FILE}, or give another output folder."
            )

    @property
    def skipped(self):
        """{reason: pairs of the training text left out}."""
        return self.batches.skipped

    @property
    def updates(self):
        """Updates done so far."""
        return int(self.model.optimizer.iterations)

    def train(self, epochs=None, updates=None, minutes=None, keep=2, best=0, monitor=None, patience=None):
        """Trains until the first of the limits is reached, each counted from the run's beginning but for ``minutes``, from now.

        It goes on at the very batch where the run stands.

        Args:
            epochs: in all; None for no limit if another is given, else 20.
            updates: in all, or None.
            minutes: or None.
            keep: how many of the newest checkpoints remain.
            best: how many of the best checkpoints by ``monitor`` remain beside them.
            monitor: the metric by which the best translator and checkpoints are chosen; None for validation BLEU, or the loss
                without validation.
            patience: epochs without a better ``monitor`` after which training ends; None for no such end.

        Raises:
            ValueError: there is no such ``monitor``.
            Interrupted: SIGINT, SIGTERM or SIGHUP came; a checkpoint is written first, and a translator if there is none.
            FolderInUse: a ValueError: another process trains in the folder.
            NonFiniteError: a ValueError: the numbers have gone bad for many steps in a row; the checkpoints are as they were.
            OutOfMemory: a ValueError that says what would fit; the checkpoints are as they were.
        """
        if epochs is None:
            epochs = 20 if updates is None and minutes is None and patience is None else 10**6
        monitor = self._checked_monitor(monitor)
        waited = patience is not None and epochs_since_best(self.history, monitor) >= patience
        if self.epoch >= epochs or (updates is not None and self.updates >= updates) or waited:
            with FolderLock(self.folder):
                self.begin()  # of a new run, with limits of 0: what comes without a record of settings is never gone on with
                self._save_translator_if_missing()
            return
        progress = ProgressBar(self.batches.num_tokens / len(self.batches), file=self.file)
        tensorboard = TensorBoard(self.folder / "tensorboard")
        checkpoints = Checkpoints(self.folder / "checkpoints", keep=keep, best=best, monitor=monitor)
        callbacks = [
            Resume(self.folder / "checkpoints"),
            *([self._bleu] if self.validation is not None else []),
            LearningRate(),
            progress,
            FiniteGuard(),
            LearningCurves(self.folder),
            tensorboard,
            checkpoints,
            _BestTranslator(self.folder, self.tokenizer, checkpoints),
            *([] if patience is None else [EarlyStopping(checkpoints, monitor, patience)]),
            Limit(minutes, updates),
        ]
        with FolderLock(self.folder), Interruption(checkpoints.save, self.file) as interruption:
            self.begin()
            try:
                self._fit(epochs, [*callbacks, interruption])
                self.epoch, self.history = checkpoints.epoch, checkpoints.history
            except Interrupted:
                checkpoints.wait()
                self.epoch = checkpoints.epoch
                self._save_translator_if_missing()
                raise
            finally:
                for callback in (progress, tensorboard):
                    callback.on_train_end()
                checkpoints.release()
                self.batches.close()
            self._save_translator_if_missing()

    def _checked_monitor(self, monitor):
        names = [metric.name for metric in self.model.metrics]
        if self.validation is not None:
            names = ["val_bleu", *(f"val_{name}" for name in names), *names]
        if monitor is not None and monitor not in names:
            more = " Those of validation need valid_source and valid_target." if self.validation is None else ""
            raise ValueError(f"monitor must be one of {', '.join(names)}. Received: monitor={monitor!r}.{more}")
        return monitor or names[0]

    def _fit(self, epochs, callbacks):
        try:
            self._fit_model(epochs, callbacks)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            length = max(max(shape[1:]) for shape in self.batches.shapes)
            step = step_memory(self.model, self.batches.batch_tokens, length, self.settings.accumulate)
            last = latest_checkpoint(self.folder / "checkpoints")
            kept = f"The last checkpoint, {last.name}, is as it was." if last else "There is no checkpoint so far."
            raise OutOfMemory(
                f"Training does not fit into memory. {kept}\n{advice(step, device_memory())}\nOptions of train are --remat, with "
                "which this run can go on, and --batch-tokens, --accumulate and --dtype, which want a new output folder."
            ) from error

    def _fit_model(self, epochs, callbacks):
        self.model.fit(self.batches, validation_data=self.validation, epochs=epochs, callbacks=callbacks, verbose=0)

    def _save_translator_if_missing(self):
        if not (self.folder / "translator").exists():
            Translator(self.model, self.tokenizer).save(self.folder / "translator")


class _BestTranslator(keras.callbacks.Callback):
    """Saves the translator whenever the best epoch so far ends; the history of Checkpoints, before it, remembers earlier ones.

    Of epochs with equal values, as BLEU has at first, the best is the one with the least validation loss.
    """

    def __init__(self, folder, tokenizer, checkpoints):
        super().__init__()
        self.folder = folder
        self.tokenizer = tokenizer
        self.checkpoints = checkpoints

    def on_train_begin(self, logs=None):
        # What a kill has left while one was written: without the old one's name where a replacement takes two renames.
        for left in sorted(self.folder.glob(".translator-*"), key=lambda path: not path.name.endswith("-old")):
            if left.name.endswith("-old") and not (self.folder / "translator").exists():
                left.rename(self.folder / "translator")
            shutil.rmtree(left, ignore_errors=True)
        # A kill may have come between checkpoint and translator.
        if self.checkpoints.history and not self.checkpoints.position:
            self.on_epoch_end(self.checkpoints.epoch - 1)

    def on_epoch_end(self, epoch, logs=None):
        history, monitor = self.checkpoints.history, self.checkpoints.monitor
        best = history[-1 - epochs_since_best(history, monitor)]
        alike = [row for row in history if row.get(monitor) == best.get(monitor)]
        if history[-1] is min(alike, key=lambda row: math.inf if row.get("val_loss") is None else row["val_loss"]):
            Translator(self.model, self.tokenizer).save(self.folder / "translator")


def _compiled_model(settings, tokenizer):
    """The Transformer of these settings, as it is before any training."""
    sizes = {name: getattr(tokenizer, name) for name in ("pad_id", "bos_id", "eos_id")}
    if isinstance(tokenizer, TokenizerPair):
        sizes |= {"source_vocabulary_size": tokenizer.source.vocabulary_size, "tie_embeddings": "decoder"}
    model = Transformer.from_preset(
        settings.preset,
        tokenizer.vocabulary_size,
        seed=settings.seed,
        remat=settings.remat,
        dtype=settings.dtype,
        **sizes,
    )
    # The preset's optimizer without loss scaling, which mixed_float16 asks for: the second compile puts it around all optimizers.
    model.compile(auto_scale_loss=False)
    optimizer = model.optimizer
    if settings.accumulate > 1:
        optimizer = AccumulateGradients(optimizer, settings.accumulate)
    model.compile(SkipNonFinite(optimizer))
    return model


def _trained_tokenizer(text, vocabulary_size, separate):
    if separate:
        return TokenizerPair(*(Tokenizer.train(side, vocabulary_size) for side in (text.source, text.target)))
    return Tokenizer.train([*text.source, *text.target], vocabulary_size=vocabulary_size)


def _is_same(name, before, now):
    """Whether a setting has not changed; a path may be written otherwise."""
    if name in ("source", "target", "valid_source", "valid_target") and None not in (before, now):
        return before == now or os.path.abspath(before) == os.path.abspath(now)
    return before == now
