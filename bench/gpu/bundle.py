"""A folder that checks a GPU where nothing but the libraries is installed: `python -m bench.gpu.bundle FOLDER`.

In it are the wheel as it would be released, unpacked, the scripts and the fixtures that they audit. There
`PYTHONPATH=wheel python bench/gpu_check.py` needs neither a network nor an installed peelaudit.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CARRIED = (
    "bench/__init__.py",
    "bench/device.py",
    "bench/gpu_check.py",
    "bench/gpu",
    "fixtures/nanogpt/ckpt.pt",
    "fixtures/nanogpt/ckpt-000250.pt",
    "fixtures/nanogpt/calibration.txt",
    "fixtures/nanogpt/meta.pkl",
    "fixtures/llama",
    "fixtures/llama-ternary",
    "fixtures/llama-binary",
)


def bundle(folder: Path) -> None:
    """Write the folder; the results of earlier checks in it stay."""
    for old in ("wheel", "bench", "fixtures"):
        shutil.rmtree(folder / old, ignore_errors=True)
    for name in CARRIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, target)
    _unpack_wheel(folder)


def _unpack_wheel(folder: Path) -> None:
    for old in folder.glob("*.whl"):
        old.unlink()
    options = ("--quiet", "--no-deps", "--wheel-dir", str(folder))
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True)
    (wheel,) = folder.glob("peelaudit-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "wheel")


if __name__ == "__main__":
    bundle(Path(sys.argv[1]))
