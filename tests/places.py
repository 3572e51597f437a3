"""Where the repository's things are, and the real models that may lie beside it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIXTURES = ROOT / "fixtures"
NANOGPT = FIXTURES / "nanogpt"
SHARED = ROOT.parent / "shared"
