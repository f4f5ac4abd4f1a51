"""A shortage of memory is recognised, whichever vendor reports it."""

from __future__ import annotations

import numpy as np
import pytest

from whisperx_api_server.backends.vendors import is_out_of_memory, translate_memory_errors
from whisperx_api_server.errors import InsufficientMemory, InvalidAudio

REPORTED = [
    "CUDA failed with error out of memory",  # CTranslate2
    "cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",  # torch
    "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.1 GiB",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "mkl_malloc: failed to allocate memory",
    "std::bad_alloc",
    "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running LSTM "
    "node. Status Message: bad allocation",
    "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/bfc_arena.cc:376 Failed to allocate memory "
    "for requested buffer of size 8589934592",
    "[Errno 12] Cannot allocate memory",
]


@pytest.mark.parametrize("message", REPORTED)
def test_vendors_words_for_it_are_known(message: str) -> None:
    assert is_out_of_memory(RuntimeError(message))


def test_torch_s_own_error_on_a_cpu_is_known() -> None:
    torch = pytest.importorskip("torch")
    with (
        pytest.raises(InsufficientMemory, match="send less") as caught,
        translate_memory_errors("send less"),
    ):
        torch.empty(10**13)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_numpy_s_own_error_is_known() -> None:
    with pytest.raises(InsufficientMemory), translate_memory_errors("send less"):
        np.empty(10**15)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN failed with status CUDNN_STATUS_EXECUTION_FAILED"),
        ValueError("Invalid input features shape"),
        InvalidAudio("the recording cannot be decoded: out of memory cards"),
    ],
)
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translate_memory_errors("send less"):
        raise error
    assert caught.value is error
