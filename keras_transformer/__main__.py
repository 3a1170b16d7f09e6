"""``python -m keras_transformer``: the command line."""

from keras_transformer.cli import main

main()
