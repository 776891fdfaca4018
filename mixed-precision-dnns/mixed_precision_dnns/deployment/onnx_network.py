"""An exported network in onnxruntime."""
from pathlib import Path

import numpy as np

from common.inference.forks import check_process, left_alone_by_forks
from common.machine.cores import num_threads
from common.machine.errors import UsageError, UserError

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
        from onnxruntime.capi import onnxruntime_pybind11_state as errors

        check_process("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads()
        options.log_severity_level = 3    # errors only
        # Kernels for integers would round biases, and sums once more: activations near a border would change level.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        try:
            self._session = left_alone_by_forks(onnxruntime.InferenceSession(
                model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]))
        except errors.NoSuchFile as error:
            raise UsageError(f"{model}: no such file; export.py makes it") from error
        except (errors.Fail, errors.InvalidProtobuf, errors.InvalidGraph, errors.InvalidArgument,
                errors.NotImplemented) as error:
            raise UserError(f"{model}: damaged, or not an ONNX model; run export.py again") from error
        inputs = self._session.get_inputs()
        if [x.name for x in inputs] != [INPUT] or [y.name for y in self._session.get_outputs()] != [OUTPUT]:
            raise UserError(f"{model}: not a network that export.py wrote")
        self.shape = tuple(inputs[0].shape)

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
