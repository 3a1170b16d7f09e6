"""A run for a child that may have little memory: python tests/reliability/little_memory.py FOLDER EPOCHS [MEGABYTES]

With MEGABYTES the address space may grow by no more when training begins. Exit code 9 and the error on standard output where that
is too little.
"""

import io
import resource
import sys
from pathlib import Path

from keras_transformer.memory import OutOfMemory
from keras_transformer.runs import Run, Settings
from keras_transformer.text.demo import write_demo_corpus


def address_space():
    """In bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def main(folder, epochs, megabytes=None):
    if not (corpus := folder / "corpus").exists():
        write_demo_corpus(corpus, num_train=600, num_valid=1, num_test=1)
    settings = Settings(str(corpus / "train.en"), str(corpus / "train.de"), vocabulary_size=1000)
    run = Run(folder / "run", settings, file=io.StringIO())
    if megabytes is not None:
        limit = address_space() + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        run.train(epochs=epochs)
    except OutOfMemory as error:
        print(error)
        sys.exit(9)
    print(f"{run.updates} of {epochs * len(run.batches)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
