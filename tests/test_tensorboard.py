"""TensorBoard: what a log file holds."""

from small_training import fit, make_training

from keras_transformer.callbacks import LearningRate, TensorBoard


def test_tensorboard_writes_all_logs(tmp_path):
    model, batches = make_training()
    fit(model, batches, [LearningRate(), TensorBoard(tmp_path)])
    (events,) = tmp_path.iterdir()
    for name in (b"loss", b"perplexity", b"learning_rate"):
        assert name in events.read_bytes()
