"""Out of Python: artefacts that translate without this package."""

from keras_transformer.export.saved_model import export_saved_model, load_saved_model

__all__ = ["export_saved_model", "load_saved_model"]
