"""Models: load, check, save, and the steps that make one ready for lowering. Vocabulary: `onnx_ir.Model`."""

from sardonyx.model.load import load, unknown_operators
from sardonyx.model.prepare import prepare
from sardonyx.model.save import save
from sardonyx.model.schemas import operator_name, version_of

__all__ = ["load", "operator_name", "prepare", "save", "unknown_operators", "version_of"]
