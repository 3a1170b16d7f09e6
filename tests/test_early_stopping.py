"""EarlyStopping: the best value is remembered through a resume, and epochs without one end nothing."""

import keras
import numpy as np
import pytest

from keras_transformer.callbacks import Checkpoints, EarlyStopping, Resume, epochs_since_best
from keras_transformer.callbacks.checkpoints import is_less_better

X = np.ones((4, 2), "float32")


def run(folder, scores, epochs=9, patience=3, name="val_bleu"):
    """Epochs trained when each has that score, or none where it is None."""
    scores = iter(scores)

    def score(epoch, logs):
        logs.update({name: value} if (value := next(scores)) is not None else {})

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    checkpoints = Checkpoints(folder)
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=score), checkpoints]
    callbacks = [Resume(folder), *callbacks, EarlyStopping(checkpoints, name, patience)]
    return len(model.fit(X, X[:, :1], epochs=epochs, callbacks=callbacks, verbose=0).history["loss"])


def test_the_best_before_a_resume_counts(tmp_path):
    assert run(tmp_path, [5.0, 9.0, 1.0], epochs=3) == 3
    assert run(tmp_path, [2.0, 3.0, 4.0]) == 2  # the third epoch in a row that is not better than 9


def test_less_is_better_of_a_loss(tmp_path):
    assert run(tmp_path, [5.0, 4.0, 6.0, 7.0], patience=2, name="val_loss") == 4


@pytest.mark.filterwarnings("ignore:The logs of epoch 1 hold no 'val_bleu'")
def test_a_score_every_second_epoch(tmp_path):
    """The fifth epoch has none, and ends nothing; the sixth is the fourth since the best."""
    assert run(tmp_path, [None, 9.0, None, 12.0, None, 11.0, None, 13.0], patience=2) == 6


def test_a_name_that_the_logs_never_hold_is_told_once(tmp_path):
    with pytest.warns(
        UserWarning, match=r"epoch 1 hold no 'val_bleu', .* EarlyStopping ends nothing. They hold loss"
    ) as told:
        assert run(tmp_path, [None] * 4, epochs=4, patience=1) == 4
    assert sum(warning.category is UserWarning for warning in told) == 1


def test_impossible_arguments():
    for patience in (0, 1.5):
        with pytest.raises(ValueError, match=f"patience={patience}"):
            EarlyStopping(None, patience=patience)
    with pytest.raises(ValueError, match="'val_smoothness' does not tell whether"):
        EarlyStopping(None, "val_smoothness")
    EarlyStopping(None, "val_smoothness", mode="max")


def test_an_epoch_without_a_value_is_one_since_the_best():
    history = [{"val_loss": 2.0}, {"val_loss": 1.0}, {}, {"val_loss": 1.0}]
    assert epochs_since_best(history, "val_loss") == 2
    assert epochs_since_best([], "val_loss") == epochs_since_best([{}], "val_loss") == 0


@pytest.mark.parametrize(
    "name", ["loss", "val_loss", "val_perplexity", "mean_squared_error", "val_mse", "mae", "val_ter"]
)
def test_names_of_which_less_is_better(name):
    assert is_less_better(name)


@pytest.mark.parametrize(
    "name", ["val_bleu", "val_chrf", "token_accuracy", "acc", "val_auc", "f1_score", "exact_match"]
)
def test_names_of_which_more_is_better(name):
    assert not is_less_better(name)
    assert is_less_better(name, "min")
