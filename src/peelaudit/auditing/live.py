"""An audit in the middle of somebody else's process, which finds everything there as it was."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from peelaudit.auditing.prepare import Live
from peelaudit.auditing.run import audit_config
from peelaudit.progress import SILENT, Progress
from peelaudit.records import AuditReport
from peelaudit.settings.audit import AuditConfig

__all__ = ["audit_live", "undisturbed"]


def audit_live(config: AuditConfig, live: Live, *, progress: Progress = SILENT) -> AuditReport:
    """Audit a module in memory; see `audit_config`.

    Raises:
        PeelauditError: as `audit_config`.
    """
    with undisturbed():
        return audit_config(config, live=live, progress=progress)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Within it torch is set as a fresh process has it, and afterwards as it was: generators, gradients, autocasting,
    the default dtype and device, threads.
    """
    numbers, arrays, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    try:
        with contextlib.ExitStack() as fresh:
            fresh.enter_context(torch.inference_mode(mode=False))
            fresh.enter_context(torch.enable_grad())
            fresh.enter_context(torch.device("cpu"))
            for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
                fresh.enter_context(torch.autocast(kind, enabled=False))
            yield
    finally:
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        random.setstate(numbers)
        np.random.set_state(arrays)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)
