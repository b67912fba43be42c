"""Tokenizer processes make the tokens that the tokenizer makes, also when one of them is gone."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from tests.benchmarks import corpus
from transforms.loaded_model import load_sentence_transformer
from transforms.tokenize import PROBES, FastTokenizer, Tokens
from transforms.tokenizer_processes import PIECE_TEXTS, TokenizerProcesses, joined, processes_here

pytestmark = pytest.mark.model
TEXTS = [*PROBES, *corpus.sentences(2 * PIECE_TEXTS), "lone \ud800 surrogate is no text".replace("\ud800", ""), ""]


@pytest.fixture(scope="module")
def tokenizer(bundled_model: str) -> FastTokenizer:
    return FastTokenizer(load_sentence_transformer(bundled_model, "cpu"), "a prompt: ")


@pytest.fixture
def processes(tokenizer: FastTokenizer) -> Iterator[TokenizerProcesses]:
    found = TokenizerProcesses(tokenizer, 2)
    yield found
    found.close()


def assert_equal(one: Tokens, other: Tokens) -> None:
    for name in Tokens._fields:
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype, name
        assert np.array_equal(a, b), name


def pids(processes: TokenizerProcesses) -> list[int]:
    found = [processes._idle.get() for _ in range(2)]  # waits until they have begun
    for process in found:
        processes._idle.put(process)
    return [process.pid for process in found]


@pytest.mark.parametrize("texts", [[], ["one"], TEXTS[: PIECE_TEXTS + 1], TEXTS], ids=len)
def test_tokens_are_those_of_one_tokenizer(
    tokenizer: FastTokenizer, processes: TokenizerProcesses, texts: list[str]
) -> None:
    assert_equal(processes(texts), tokenizer(texts))


def test_pieces_of_processes_that_were_killed_are_tokenized_here(
    tokenizer: FastTokenizer, processes: TokenizerProcesses
) -> None:
    first, second = pids(processes)
    os.kill(first, signal.SIGKILL)
    assert_equal(processes(TEXTS), tokenizer(TEXTS))
    os.kill(second, signal.SIGKILL)
    assert_equal(processes(TEXTS), tokenizer(TEXTS))


def test_processes_end_with_the_one_they_serve() -> None:
    script = (
        "import sys, time; from transforms.tokenizer_processes import TokenizerProcesses\n"
        "t = TokenizerProcesses(len, 2); ps = [t._idle.get() for _ in range(2)]; ps2 = [t._idle.put(p) for p in ps]\n"
        "print(*(p.pid for p in ps), flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.kill()
    for pid in children:
        for _ in range(1200):
            if not is_running(pid):
                break
            time.sleep(0.05)
        assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_tokenizer_travels_without_its_model(tokenizer: FastTokenizer) -> None:
    assert len(pickle.dumps(tokenizer)) < 4 << 20
    assert_equal(pickle.loads(pickle.dumps(tokenizer))(TEXTS), tokenizer(TEXTS))


def test_joined_tokens_are_those_of_all_texts(tokenizer: FastTokenizer) -> None:
    parts = [tokenizer(TEXTS[:3]), tokenizer([]), tokenizer(TEXTS[3:50])]
    assert_equal(joined(parts), tokenizer(TEXTS[:50]))


@pytest.mark.parametrize(("cores", "processes"), [(1, 0), (7, 0), (8, 4), (16, 12)])
def test_small_machines_tokenize_in_one_process(cores: int, processes: int) -> None:
    assert processes_here(cores) == processes
