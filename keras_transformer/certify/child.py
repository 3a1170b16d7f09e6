"""The process of one backend: computes every stage and writes the arrays.

``python -m keras_transformer.certify.child FOLDER``, with KERAS_BACKEND set. FOLDER holds plan.json; it gets BACKEND.npz, with an
array for each "stage|part", or BACKEND.json, which says what went wrong at which stage.
"""

import json
import sys
import traceback
from pathlib import Path

import keras
import numpy as np

from keras_transformer.certify.plan import Plan
from keras_transformer.certify.stages import Subject, stages


def main(folder):
    folder, backend = Path(folder), keras.backend.backend()
    stage, found = "checkpoint", {}
    try:
        for stage, parts in stages(Subject(Plan.read(folder / "plan.json"))).items():
            found |= {f"{stage}|{part}": values for part, values in parts().items()}
    except Exception as error:
        traceback.print_exc()
        failure = {"stage": stage, "message": str(error) or type(error).__name__}
        (folder / f"{backend}.json").write_text(json.dumps(failure), encoding="utf-8")
        return
    np.savez(folder / f"{backend}.npz", **found)


if __name__ == "__main__":
    main(sys.argv[1])
