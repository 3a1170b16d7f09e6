"""The process of one backend: computes every stage and writes the arrays.

``python -m keras_transformer.certify.child FOLDER``, with KERAS_BACKEND set. FOLDER holds plan.json; it gets BACKEND-NUMBER.npz for
each stage, with an array for each "stage|part", and BACKEND.json: the stage that is being computed, what was loaded, and, where
something went wrong, what. So what was computed before an error, a kill or the end of the time is not lost.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import keras
import numpy as np

from keras_transformer.certify.orphans import end_with_parent
from keras_transformer.certify.plan import DONE, Plan
from keras_transformer.certify.stages import Subject, stages


def main(folder):
    folder, backend = Path(folder), keras.backend.backend()
    status = {"stage": "checkpoint"}

    def tell(**more):
        status.update(more)
        _whole(folder / f"{backend}.json", lambda path: path.write_text(json.dumps(status), encoding="utf-8"))

    tell()
    try:
        subject = Subject(Plan.read(folder / "plan.json"))
        tell(loaded=subject.loaded)
        for number, (stage, parts) in enumerate(stages(subject).items()):
            tell(stage=stage)
            found = {f"{stage}|{part}": values for part, values in parts().items()}
            _whole(folder / f"{backend}-{number:02}.npz", lambda path, found=found: np.savez(path, **found))
        tell(stage=DONE)
    except Exception as error:
        traceback.print_exc()
        tell(message=str(error) or type(error).__name__)


def _whole(path, write):
    """Gives what ``write`` wrote its name when it is complete: this process may be ended at any moment."""
    new = path.with_name(f"new-{path.name}")
    write(new)
    os.replace(new, path)


if __name__ == "__main__":
    end_with_parent()
    main(sys.argv[1])
