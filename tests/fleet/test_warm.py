"""What is imported before the fork: all that an audit needs, and no thread."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet.support import ROOT, environ, write_model

SCRIPT = """
import json, os, sys
import peelaudit.fleet.warm
threads, before = len(os.listdir("/proc/self/task")), set(sys.modules)
from peelaudit.auditing.run import audit_config
from peelaudit.config import AuditConfig
for path in sys.argv[1:]:
    audit_config(AuditConfig(checkpoint=path, tokens=640, seq_len=32, resamples=100, schedules=("final",)))
print(json.dumps([threads, sorted(set(sys.modules) - before)]))
"""


@pytest.mark.slow
def test_an_audit_imports_next_to_nothing_more(tmp_path: Path) -> None:
    paths = [str(write_model(tmp_path / "a.pt", seed=1)), "fixtures/llama"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *paths], cwd=ROOT, env=environ(), capture_output=True, text=True, check=True
    )
    threads, late = json.loads(done.stdout)
    assert threads == 1
    assert len(late) < 20, late
