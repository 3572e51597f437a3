"""Does the program compute on this GPU what it computes on the CPU? `make gpu-check`, or, where nothing is installed,
`PYTHONPATH=src python bench/gpu_check.py [--device auto] [--out DIR] [--budget 480] [--model PATH] [--only NAME]`.

Needed are torch, transformers, safetensors, typer, rich and numpy; no network, and no installed peelaudit. A line a
check, most telling first: the parts of an audit (`bench.gpu.parts`), the fixtures' audits beside the CPU's, a real
model if one is given, a ternary network of 3.4 billion parameters in the time that is left. Exit code 1 where one
failed. Without a GPU the CPU is held to itself in float64.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # read when tokenizers is imported
os.environ["HF_HUB_OFFLINE"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # run as a script, it has bench/ alone on its path

import torch
import transformers

import peelaudit
from bench.gpu.audits import fixture_checks, large_checks, model_check
from bench.gpu.networks import FAMILIES, save_model
from bench.gpu.parts import part_checks, tf32_check
from bench.gpu.table import Table


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cuda", "mps", "cpu"), default="auto")
    parser.add_argument("--out", type=Path, help="a folder for the table as Markdown and JSON")
    parser.add_argument("--budget", type=float, default=480, help="seconds after which no new check is begun")
    parser.add_argument("--model", type=Path, help="a real checkpoint to audit too, such as SmolLM2's GGUF file")
    parser.add_argument("--only", default="", help="run the checks alone whose names hold this")
    parser.add_argument("--data", type=Path, help="text for it; a generic one unless given")
    arguments = parser.parse_args(argv)
    transformers.utils.logging.disable_progress_bar()
    device = torch.device(_present() if arguments.device == "auto" else arguments.device)
    table = Table(device, arguments.budget, arguments.out, _title(device), only=arguments.only)
    with tempfile.TemporaryDirectory() as scratch:
        _fill(table, device, arguments, Path(scratch))
    return table.finish()


def _fill(table: Table, device: torch.device, arguments: argparse.Namespace, scratch: Path) -> None:
    fixtures, threads = ROOT / "fixtures", torch.get_num_threads()
    table.run(tf32_check(device))
    models = {family: save_model(family, scratch / family) for family in FAMILIES}
    torch.set_num_threads(1)  # more are slower on tiny networks
    for check in part_checks(models, fixtures / "nanogpt/ckpt.pt", device):
        table.run(check)
    for check in fixture_checks(fixtures, device):
        table.run(check)
    torch.set_num_threads(threads)
    table.run(model_check(arguments.model, arguments.data, device))
    for check in large_checks(device, table):
        table.run(check)


def _present() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _title(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    versions = f"peelaudit {peelaudit.__version__} from {Path(peelaudit.__file__).parent}, torch {torch.__version__}"
    return f"{device.type}, {name}: {versions}, transformers {transformers.__version__}"


if __name__ == "__main__":
    sys.exit(main())
