"""Fixtures that several modules share."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported: its kernels run on any machine then

import pytest
import torch
import transformers

from tests import pretend
from tests.checkpoints import models
from tests.networks import Network, opened


def pytest_collection_finish() -> None:
    """Libraries and tests stay to the end: what looks for garbage needn't look through them, nor so often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """On tiny models more threads are slower, many times on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _a_device_to_pretend() -> None:
    """It has to be there before the first backward pass of any test."""
    pretend.register()


@pytest.fixture(autouse=True, scope="session")
def _signals_are_heeded() -> None:
    """A job in the background ignores SIGINT, one under nohup SIGHUP, and so would the commands that tests start."""
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def network(tmp_path: Path) -> Iterator[Callable[..., Network]]:
    """Opens tiny networks, of a family or of a model that is given; they are closed after the test."""
    with ExitStack() as stack:
        count = iter(range(99))

        def make(model: str | transformers.PreTrainedModel, *, changes: Any = None, **options: Any) -> Network:
            made = models.model(model, **(changes or {})) if isinstance(model, str) else model
            folder = models.save(made, tmp_path / f"network-{next(count)}")
            return stack.enter_context(opened(folder, **options))

        yield make


@pytest.fixture
def nanogpt(tmp_path: Path) -> Iterator[Network]:
    """A nanoGPT of two layers, without the biases that transformers' GPT-2 has."""
    torch.save(models.nanogpt(bias=False), tmp_path / "nanogpt.pt")
    with opened(tmp_path / "nanogpt.pt") as made:
        yield made
