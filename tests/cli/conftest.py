"""The command over a canned audit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.stub import stub
from tests.cli.support import Canned, within


@pytest.fixture
def canned(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Canned:
    """As `stubbed`, in this process: what isn't of processes and their streams needs none of its own."""

    def run(mode: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        monkeypatch.setitem(sys.modules, "peelaudit.auditing.run", stub(mode))
        return within(capsys, *arguments)

    return run
