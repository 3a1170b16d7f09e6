"""Certify: proof that the installed backends compute the same from one checkpoint.

After the translator. The parent (``certificate.py``) starts a process for each backend (``child.py``), which computes the stages
(``stages.py``) of a plan (``plan.py``); then it compares them (``comparison.py``) and reports (``report.py``). What one decoded
otherwise than the reference is scored by the reference (``rescore.py``). The parent itself needs no backend. ``preset.py`` makes
a checkpoint of a preset where none is given. A process whose parent is gone ends (``orphans.py``).
"""

from keras_transformer.certify.certificate import certify, preset_checkpoint
from keras_transformer.certify.report import table

__all__ = ["certify", "preset_checkpoint", "table"]
