"""Out of Python: artefacts that translate without this package."""

from keras_transformer.export.ctranslate2 import export_ctranslate2
from keras_transformer.export.folders import verify_export
from keras_transformer.export.loaded import load_saved_model
from keras_transformer.export.onnx import export_onnx
from keras_transformer.export.saved_model import export_saved_model

__all__ = ["export_ctranslate2", "export_onnx", "export_saved_model", "load_saved_model", "verify_export"]
