"""An exported network in onnxruntime."""
from pathlib import Path

import numpy as np

from common.inference.forks import check_process, left_alone_by_forks
from common.machine.cores import num_threads
from common.machine.errors import UserError
from common.reading.files import decoding
from common.reading.onnx_models import read_onnx

INPUT, OUTPUT = "image", "logits"    # names in the model


class OnnxNetwork:
    """An exported network in onnxruntime. Threads may share it.

    Parameters
    ----------
    model : path, or bytes

    Attributes
    ----------
    shape : tuple of int
        Of the input, (batch, channels, height, width).

    Raises
    ------
    UsageError
        There is no such file.
    UserError
        It is no network that export.py wrote; as `common.inference.forks.check_process`.
    """

    def __init__(self, model: str | Path | bytes) -> None:
        import onnxruntime

        check_process("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads()
        options.log_severity_level = 3    # errors only
        # Kernels for integers would round biases, and sums once more: activations near a border would change level.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        name, what, remedy = _name(model), "an ONNX model", "run export.py again"
        content = model if isinstance(model, bytes) else read_onnx(
            model, what, remedy, missing=f"{model}: no such file; export.py makes it")
        with decoding(name, what, remedy):
            self._session = left_alone_by_forks(onnxruntime.InferenceSession(content, options,
                                                                             providers=["CPUExecutionProvider"]))
        inputs = self._session.get_inputs()
        if [x.name for x in inputs] != [INPUT] or [y.name for y in self._session.get_outputs()] != [OUTPUT]:
            raise UserError(f"{name}: not a network that export.py wrote")
        self.shape = tuple(inputs[0].shape)
        if inputs[0].type != "tensor(float)" or len(self.shape) != 4:
            raise UserError(f"{name}: takes {inputs[0].type} of shape {self.shape}, no batch of images; {remedy}")
        with decoding(name, what, remedy):
            self.predict(np.zeros((1, *self.shape[1:]), np.float32))    # a damaged network may fail only now

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Logits float32 (n, classes) of images (n, channels, height, width), any number of them."""
        check_process("onnxruntime")
        batch, parts = self.shape[0], []
        for start in range(0, len(image), batch):
            part = np.zeros(self.shape, np.float32)
            num = min(batch, len(image) - start)
            part[:num] = image[start:start + num]
            parts.append(self._session.run([OUTPUT], {INPUT: part})[0][:num])
        return np.concatenate(parts)


def _name(model: str | Path | bytes) -> str:
    """What messages call a model."""
    return f"a model of {len(model)} bytes" if isinstance(model, bytes) else str(model)
