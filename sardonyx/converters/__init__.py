"""Models of other frameworks become ONNX: one file per framework, each working in a child process."""
