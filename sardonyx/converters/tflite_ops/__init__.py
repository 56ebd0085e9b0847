"""What the operators of TensorFlow Lite are in ONNX: a file for each family, a row or a paragraph for each operator."""

from sardonyx.converters.tflite_ops import (  # noqa: F401  # each registers its operators
    arithmetic,
    control,
    convolution,
    custom,
    image,
    movement,
    recurrent,
    reduction,
    selection,
)
