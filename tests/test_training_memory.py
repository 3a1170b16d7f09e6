"""Peak memory of training with a large vocabulary, in a child process for each backend."""

import re
import subprocess
import sys
from pathlib import Path


def test_peak_memory_of_fit():
    """4,096 target tokens x 32,000 entries: the logits alone take 500 MB, a plain form 1.6 to 3.7 GB."""
    command = [sys.executable, str(Path(__file__).with_name("training_memory.py"))]
    child = subprocess.run(command, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    assert int(re.search(r"(\d+) MB", child.stdout)[1]) < 1600
