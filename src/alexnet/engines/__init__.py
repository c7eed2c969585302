"""What computes answers: torch, ONNX Runtime or OpenVINO behind the same call."""

ENGINES = ("auto", "torch", "onnx", "openvino")
