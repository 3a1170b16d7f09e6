"""The reference's second process: its scores of what other backends decoded and it did not.

``python -m keras_transformer.certify.rescore FOLDER``, with KERAS_BACKEND set. FOLDER holds plan.json and rescore.npz, with
"backend|stage|ids" (N, L) and "backend|stage|sentences" (N,); it gets rescored.npz, with "backend|stage" (N,).
"""

import sys
from pathlib import Path

import numpy as np

from keras_transformer.certify.orphans import end_with_parent
from keras_transformer.certify.plan import Plan
from keras_transformer.certify.stages import Subject, rescored, searches


def main(folder):
    folder, found = Path(folder), {}
    subject = Subject(Plan.read(folder / "plan.json"))
    search_of = searches(subject)
    with np.load(folder / "rescore.npz") as asked:
        for key in {name.rpartition("|")[0] for name in asked.files}:
            stage = key.partition("|")[2]
            found[key] = rescored(subject, search_of[stage], asked[f"{key}|sentences"], asked[f"{key}|ids"])
    np.savez(folder / "rescored.npz", **found)


if __name__ == "__main__":
    end_with_parent()
    main(sys.argv[1])
