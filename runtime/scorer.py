"""The scorer: one ONNX graph, run by onnxruntime, one reading at a time or many."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from axlebox.firmware_bundle.errors import Malformed
from axlebox.firmware_bundle.graph import FLAG, INPUT, SCORE

# Read by onnxruntime while it is imported: without it a device id and a small database appear in
# the user's cache folder, and disable_telemetry_events() comes too late to stop that.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import onnxruntime as ort

_ERRORS_ONLY = 3


class Scorer:
    """Runs a model with input X float32 (n, k) and outputs score float64 (n,), flag bool (n,).

    score is 0..1, higher is more anomalous: s(x, n) of Liu, Ting, Zhou (2008), the negative of
    scikit-learn's score_samples. flag is decided inside the graph, by a cut on the depth sum.
    """

    def __init__(self, model: bytes) -> None:
        """Load a model. Raises Malformed where onnxruntime cannot, or its ports are not ours."""
        options = ort.SessionOptions()
        # With two threads the order of the sum over trees changes, and with it the last bit.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = _ERRORS_ONLY
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's exception classes share no base but this
            raise Malformed(f"onnxruntime cannot load the model: {str(error).splitlines()[0]}") from error
        ports = [(port.name, port.type, len(port.shape)) for port in (*session.get_inputs(), *session.get_outputs())]
        if ports != [(INPUT, "tensor(float)", 2), (SCORE, "tensor(double)", 1), (FLAG, "tensor(bool)", 1)]:
            raise Malformed(f"the model's inputs and outputs are {ports}")
        width = session.get_inputs()[0].shape[1]
        if not isinstance(width, int) or width < 1:
            raise Malformed(f"the model takes {width!r} features")
        self.n_features: int = width
        self._session = session
        self._bind_single_row()

    def _bind_single_row(self) -> None:
        """Fix the buffers of one row, so that a single reading costs no allocation.

        onnxruntime keeps bare pointers into these arrays: they live as long as the session.
        """
        self._row = np.zeros((1, self.n_features), dtype=np.float32)
        self._score = np.zeros(1, dtype=np.float64)
        self._flag = np.zeros(1, dtype=np.bool_)
        self._binding = self._session.io_binding()
        for bind, name, buffer in (
            (self._binding.bind_input, INPUT, self._row),
            (self._binding.bind_output, SCORE, self._score),
            (self._binding.bind_output, FLAG, self._flag),
        ):
            bind(name, "cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)

    def score_rows(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Scores and flags of feature rows (n, n_features); both results have shape (n,)."""
        if rows.shape == self._row.shape:
            self._row[:] = rows
            self._session.run_with_iobinding(self._binding)
            return self._score.copy(), self._flag.copy()
        scores, flags = self._session.run((SCORE, FLAG), {INPUT: rows})
        return scores, flags
