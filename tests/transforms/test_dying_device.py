"""A device that fails at any call that a run on a GPU makes, driven on CPU tensors: no row is lost, rejected or doubled
by it, and where the device is gone, so is the process."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from schemas.blocks import OFFSET, SOURCE, Block
from schemas.errors import DeviceGone
from schemas.rejects import Reason
from tests import zoo
from tests.transforms.test_encoder import assert_same, make_encoder
from transforms import encode, loaded_model
from transforms.device_faults import is_out_of_memory, raise_if_gone
from transforms.encoder import Encoder
from transforms.lanes import LANES, DirectLane, StagedLane
from transforms.model import EncodeOptions, resolve_model

TEXTS = zoo.TEXTS
SPOKEN = [
    torch.AcceleratorError("CUDA error: device-side assert triggered\nCUDA kernel errors might be …"),
    RuntimeError("CUDA error: unspecified launch failure"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("Can't initialize NVML"),
    RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"),
    RuntimeError("HIP error: the operation cannot be performed in the present state"),
    RuntimeError("MPS: command buffer exited with error status (Internal Error 0000000e)"),
]
MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
    MemoryError(),
]
OF_ROWS = [RuntimeError("index out of range in self"), ValueError("CUDA error in a text"), IndexError("token 9")]


@pytest.mark.parametrize("error", SPOKEN, ids=lambda error: str(error)[:40])
def test_what_a_driver_says_of_a_dead_device_is_understood(error: Exception) -> None:
    assert not is_out_of_memory(error)
    with pytest.raises(DeviceGone, match=r"device cuda:0 is gone .*nothing is published"):
        raise_if_gone(error, torch.device("cuda:0"))


@pytest.mark.parametrize("error", [*MEMORY, *OF_ROWS], ids=lambda error: str(error)[:40])
def test_want_of_memory_and_bad_rows_are_no_death(error: Exception) -> None:
    assert is_out_of_memory(error) == (error in MEMORY)
    raise_if_gone(error, "cuda:0")


def test_a_device_that_does_not_compute_any_more_is_gone_whatever_the_error_said() -> None:
    def probe() -> None:
        raise RuntimeError("of a kind that nobody has seen")

    with pytest.raises(DeviceGone):
        raise_if_gone(RuntimeError("odd"), "cuda:0", probe)
    raise_if_gone(MEMORY[0], "cuda:0", probe)


class Device:
    """Counts calls and fails one, or all from one on."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.heal()

    def heal(self) -> None:
        self.calls.clear()
        self.kind, self.at, self.error, self.sticky = "", 0, RuntimeError(), False

    def fail(self, kind: str, at: int, error: Exception, sticky: bool) -> None:
        self.heal()
        self.kind, self.at, self.error, self.sticky = kind, at, error, sticky

    def call(self, kind: str) -> None:
        self.calls[kind] += 1
        dead = self.sticky and self.calls[self.kind] >= self.at
        if dead or (kind == self.kind and self.calls[kind] == self.at):
            raise type(self.error)(*self.error.args)


DEVICE = Device()
KINDS = ("allocate", "copy", "launch", "synchronise")


class FailingLane(StagedLane):
    """Of the device above. A thread's own, as are its buffers; nothing is copied in the background."""

    def _buffer(self, name: str, like: torch.Tensor) -> torch.Tensor:
        DEVICE.call("allocate")
        return super()._buffer(name, like)

    def _copy(self, to: torch.Tensor, tensor: torch.Tensor) -> None:
        DEVICE.call("copy")
        super()._copy(to, tensor)

    def _wait(self) -> None:
        DEVICE.call("synchronise")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return zoo.build("BERT", tmp_path_factory.mktemp("zoo") / "model")


@pytest.fixture
def encoder(folder: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Encoder]:
    yield on_device(folder, monkeypatch)
    DEVICE.heal()


def on_device(folder: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Encoder:
    """One worker, so that calls have an order, whose model and whose probe are the device's."""
    DEVICE.heal()
    cpu = make_encoder(folder, threads=1)._models[0]
    monkeypatch.setitem(LANES, "cpu", FailingLane)
    encoder = make_encoder(folder, threads=1, batch_tokens=200, **options)
    (model,) = encoder._models
    for module in {model._exact, model._model}:
        module[0].register_forward_pre_hook(lambda module, args: DEVICE.call("launch"))
    model._cpu_model = cpu
    monkeypatch.setattr(model, "_probe", lambda: DEVICE.call("probe"))
    return encoder


def test_an_error_once_or_for_good_at_any_call_ends_the_process_or_changes_nothing(encoder: Encoder) -> None:
    DEVICE.heal()
    wanted = encoder.encode(TEXTS)
    healthy = Counter(DEVICE.calls)
    assert min(healthy[kind] for kind in KINDS) >= 5
    for kind in KINDS:
        for at in range(1, healthy[kind] + 1):
            for sticky, error in ((True, SPOKEN[0]), (False, SPOKEN[1]), (True, RuntimeError("odd"))):
                DEVICE.fail(kind, at, error, sticky)
                with pytest.raises(DeviceGone, match="device cpu is gone"):
                    encoder.encode(TEXTS)
            DEVICE.fail(kind, at, RuntimeError("odd, and over"), sticky=False)
            found = encoder.encode(TEXTS)
            assert found.failures == wanted.failures == []
            assert_same(found.vectors, wanted.vectors)


def test_want_of_memory_once_or_for_good_at_any_call_costs_no_row(encoder: Encoder) -> None:
    DEVICE.heal()
    wanted = encoder.encode(TEXTS)
    healthy = Counter(DEVICE.calls)
    (model,) = encoder._models
    for kind in KINDS:
        for at in range(1, healthy[kind] + 1, 3):
            for sticky in (False, True):
                model.batch_tokens = 200
                DEVICE.fail(kind, at, MEMORY[at % 2], sticky)
                found = encoder.encode(TEXTS)
                assert found.failures == []
                assert_same(found.vectors, wanted.vectors)


def test_a_low_precision_too(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = on_device(folder, monkeypatch, dtype="bfloat16")
    wanted = encoder.encode(TEXTS)
    healthy = Counter(DEVICE.calls)
    for kind in KINDS:
        for at in range(1, healthy[kind] + 1, 4):
            DEVICE.fail(kind, at, SPOKEN[0], sticky=True)
            with pytest.raises(DeviceGone):
                encoder.encode(TEXTS)
            encoder._models[0].batch_tokens = 200
            DEVICE.fail(kind, at, MEMORY[0], sticky=True)
            found = encoder.encode(TEXTS)
            assert found.failures == []
            assert len(found.cosines) == len(wanted.cosines) > 0
            assert min(found.cosines) > 0.999
    DEVICE.heal()


def test_a_lone_row_that_does_not_fit_is_computed_on_the_cpu_which_loads_a_model_then(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = on_device(folder, monkeypatch)
    wanted = encoder.encode(TEXTS)
    (model,) = encoder._models
    model._cpu_model = None
    DEVICE.fail("launch", 1, MEMORY[0], sticky=True)
    monkeypatch.setitem(LANES, "cpu", DirectLane)
    assert_same(encoder.encode(TEXTS).vectors, wanted.vectors)
    assert model._cpu_model.is_reference
    DEVICE.heal()


def test_a_token_beyond_the_vocabulary_is_a_rejected_row_and_no_assert_of_the_device(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder(folder)
    (model,) = encoder._models
    known = int(model.tokenizer(["a"]).ids.max()) + 1
    monkeypatch.setattr(model, "_vocabulary", known)
    found = encoder.encode(["a", "the weather is lovely today"])
    assert [(f.row, f.reason) for f in found.failures] == [(1, Reason.ENCODE_ERROR)]
    assert f"is beyond the model's vocabulary of {known}" in found.failures[0].message


def test_the_allocator_gives_back_when_the_error_and_what_it_holds_are_gone(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import weakref

    encoder = make_encoder(folder, threads=1)
    (model,) = encoder._models
    held: list[Any] = []
    freed: list[bool] = []
    inner = type(model)._vectors.__get__(model)

    def vectors(which: Any, tokens: Any, rows: np.ndarray) -> np.ndarray:
        if len(rows) > 20:
            activations = np.zeros(3)  # of the frame that raises
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("full")
        return inner(which, tokens, rows)

    monkeypatch.setattr(model, "_vectors", vectors)
    monkeypatch.setattr(model, "free_memory", lambda: freed.append(all(ref() is None for ref in held)))
    assert not encoder.encode(TEXTS).failures
    assert freed
    assert all(freed)


def block_of(texts: list[str]) -> Block:
    import pyarrow as pa

    rows = range(len(texts))
    table = pa.table({"id": [str(n) for n in rows], "text": texts, SOURCE: ["a"] * len(texts), OFFSET: rows})
    return Block("split", 0, "part", table, 1)


class Ended(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("where", ["load", "encode"])
def test_the_step_ends_its_process(folder: str, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    told: list[str] = []

    def end(message: str) -> None:
        told.append(message)
        raise Ended

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise SPOKEN[0]

    monkeypatch.setattr(encode, "end_process", end)
    options = EncodeOptions(model=folder, device="cpu")
    step = encode._EncodeBlock(resolve_model(options), options, 600.0)
    step.setup()
    if where == "load":
        monkeypatch.setattr(loaded_model.LoadedModel, "_load", broken)
    else:
        monkeypatch.setattr(loaded_model.LoadedModel, "__call__", broken)
    with pytest.raises(Ended):
        list(step.end(step.begin(block_of(["one", "two"]))))
    assert "part: device cpu is gone (AcceleratorError: CUDA error: device-side assert triggered)" in told[0]


def test_threads_that_share_a_dead_device_all_end(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = on_device(folder, monkeypatch)
    DEVICE.fail("launch", 2, SPOKEN[0], sticky=True)
    ends: list[Callable[[], Any]] = [encoder.submit(TEXTS).result for _ in range(3)]
    found: list[type] = []

    def wait(end: Callable[[], Any]) -> None:
        try:
            end()
        except Exception as error:
            found.append(type(error))

    threads = [threading.Thread(target=wait, args=(end,)) for end in ends]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [DeviceGone] * 3
    DEVICE.heal()
