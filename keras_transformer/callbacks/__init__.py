"""Keras callbacks for what happens around ``fit``: BLEU in the logs, progress, learning curves, TensorBoard, checkpoints, limits.

After translator and evaluation. What Bleu writes into the logs stands there for the callbacks behind it, ModelCheckpoint and
EarlyStopping among them, and for the history.

No callback here has ``on_train_batch_end``: on JAX and PyTorch Keras then leaves the logs of a batch to other threads, and the host
does not wait for the device at each step. ``on_train_batch_begin`` comes without logs, in the thread that trains, where the model
may be read. On TensorFlow Keras converts the logs of each batch whatever the callbacks are.
"""

from keras_transformer.callbacks.bleu import Bleu
from keras_transformer.callbacks.checkpoints import Checkpoints
from keras_transformer.callbacks.curves import LearningCurves, read_curves
from keras_transformer.callbacks.early_stopping import EarlyStopping, epochs_since_best
from keras_transformer.callbacks.finite_guard import FiniteGuard
from keras_transformer.callbacks.interruption import Interrupted, Interruption
from keras_transformer.callbacks.learning_rate import LearningRate
from keras_transformer.callbacks.limit import Limit
from keras_transformer.callbacks.progress import ProgressBar
from keras_transformer.callbacks.resume import Resume
from keras_transformer.callbacks.spike_rollback import SpikeRollback
from keras_transformer.callbacks.tensorboard import TensorBoard

__all__ = [
    "Bleu",
    "Checkpoints",
    "EarlyStopping",
    "FiniteGuard",
    "Interrupted",
    "Interruption",
    "LearningCurves",
    "LearningRate",
    "Limit",
    "ProgressBar",
    "Resume",
    "SpikeRollback",
    "TensorBoard",
    "epochs_since_best",
    "read_curves",
]
