"""The commands: what they say of their arguments, what goes where, and what of a path that is no checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from peelaudit.calibration import load_calibration
from peelaudit.checkpoints import open_checkpoint
from peelaudit.cli import main
from peelaudit.config import AuditConfig
from peelaudit.records.json import read_report
from peelaudit.reports.formats import Format
from tests.checkpoints import models
from tests.cli.support import COMMAND, MODULE, Canned, call, real, stubbed, within
from tests.places import FIXTURES, NANOGPT, ROOT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "Missing argument"),
        (["run", "a", "--tokns", "3"], "No such option"),
        (["rnu"], "No such command"),
        (["run", "a", "-f", "xml", "--seed", "x"], "--seed is 'x'"),
        (["run", "a", "--init", "random"], "--init random needs solver adam"),
        (["run", ""], "path is empty"),
        (["run", "a", "-o", "report.pdf"], "--output is 'report.pdf'"),
        (["inspect", "a", "-f", "csv"], "--format is 'csv': expected table | json"),
    ],
)
def test_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = within(capsys, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_all_mistakes_at_once() -> None:
    done = real("run", "a", "-f", "jsn", "-o", "a.foo", "-o", "jsn=b", "--tokens", "x", env={"PEELAUDIT_SEED": "-1"})
    assert done.returncode == 2
    first, *lines = done.stderr.splitlines()
    assert first == "peelaudit: error: 5 mistakes in the settings"
    assert [line.split()[0] for line in lines] == ["--format", "--output", "--output", "--tokens", "PEELAUDIT_SEED"]
    assert "did you mean json=?" in lines[2]


@pytest.mark.parametrize("asked", [None, "0"])
def test_huge_pages_are_asked_for_unless_that_is_decided(asked: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    if asked is not None:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", asked)
    assert main(["--version"]) == 0
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == (asked or "1")


def test_nothing_but_the_table_on_stdout() -> None:
    done = stubbed("ok", "run", "ckpt.pt", env={"COLUMNS": "100"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ckpt.pt, step 2,000\n4 layers × 128 wide")
    assert done.stdout.endswith("\n! 2 warnings (--full)\n")
    assert "\x1b" not in done.stdout


def test_in_full_the_page_is_followed_by_the_rest(canned: Canned) -> None:
    page, full = (canned("ok", "run", "ckpt.pt", *flags).stdout for flags in ((), ("--full",)))
    assert full.startswith(page.removesuffix("! 2 warnings (--full)\n"))
    assert "\nThe peel profile, " in full


def test_ascii_terminal() -> None:
    done = stubbed("ok", "run", "ckpt.pt", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0
    assert "\nx red, can do better" in done.stdout


def test_json_on_stdout_and_warnings_on_stderr(canned: Canned) -> None:
    done = canned("ok", "run", "ckpt.pt", "-f", "json")
    assert json.loads(done.stdout)["checkpoint"]["path"] == "ckpt.pt"
    assert done.stderr.count("peelaudit: warning: ") == 2
    assert canned("ok", "run", "ckpt.pt", "-f", "json", "--quiet").stderr == ""


def test_files(tmp_path: Path, canned: Canned, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.json", "b.csv", "c.md", "d.txt", "json=e.out"]
    outputs = [part for name in names for part in ("-o", name)]
    monkeypatch.chdir(tmp_path)
    done = canned("ok", "run", "ckpt.pt", "-q", *outputs)
    assert done.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.csv", "c.md", "d.txt", "e.out"]
    assert read_report(tmp_path / "e.out") == read_report(tmp_path / "a.json")


def test_one_target_that_fails_keeps_no_other_back(tmp_path: Path) -> None:
    done = stubbed("ok", "run", "c", "-o", "json=/dev/full", "-o", "b.csv", cwd=tmp_path)
    assert done.returncode == 3
    assert "/dev/full can't be written: No space left" in done.stderr
    assert (tmp_path / "b.csv").read_text().startswith("checkpoint,")
    assert done.stdout.startswith("c, step 2,000\n")


def test_targets_are_checked_before_the_audit(tmp_path: Path) -> None:
    done = stubbed("wait", "run", "c", "-o", "no/such/report.json", cwd=tmp_path)
    assert done.returncode == 3
    assert "there is no directory no/such" in done.stderr


def test_progress_is_plain_off_a_terminal_and_comes_late() -> None:
    done = stubbed("slow", "run", "c", "-f", "csv", "-q")
    assert done.stderr == ""
    done = stubbed("slow", "run", "c")
    assert done.stderr.splitlines() == ["peelaudit: fit", r"peelaudit: bound \x1b[31m[red]"]


@pytest.mark.parametrize(
    "arguments", [[], ["--help"], ["run", "--help"], ["batch", "--help"], ["status", "--help"], ["--version"]]
)
def test_help_waits_for_no_heavy_library(arguments: list[str]) -> None:
    script = (
        "import sys; from peelaudit.cli import main; code = main(sys.argv[1:])\n"
        "print([name for name in ('torch', 'numpy', 'transformers', 'pydantic', 'rich') if name in sys.modules],"
        " code, file=sys.stderr)"
    )
    done = call([sys.executable, "-c", script, *arguments], cwd=ROOT)
    assert done.stderr.splitlines()[-1] == ("[] 0" if arguments else "[] 2")


def test_help_names_every_setting_group_and_format(capsys: pytest.CaptureFixture[str]) -> None:
    text = within(capsys, "run", "--help").stdout
    for words in ("Calibration data:", "Method:", "Computing:", "Output:", "--depth-readout", "Default: 60,15,25."):
        assert words in text
    assert all(form in text for form in Format)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert within(capsys, "--version").stdout == "peelaudit 0.1.0\n"


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(within(capsys, "schema").stdout)["$schema"].endswith("2020-12/schema")


def test_the_module_is_the_command() -> None:
    for arguments in (["run", "a", "--seed", "x"], ["--help"]):
        by_module, by_script = (call([*command, *arguments], cwd=ROOT) for command in (MODULE, COMMAND))
        assert (by_module.returncode, by_module.stdout) == (by_script.returncode, by_script.stdout)
        assert by_module.stderr == by_script.stderr


def test_importing_the_module_runs_nothing() -> None:
    done = call([sys.executable, "-c", "import peelaudit.__main__"], cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_inspect(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    fixture = str(FIXTURES / "nanogpt/ckpt.pt")
    assert main(["inspect", fixture]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert "323 k" in text
    assert "c_attn" not in text
    assert main(["inspect", fixture, "--tensors"]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert "240×80" in text
    assert "grid" not in text
    assert main(["inspect", fixture, "-f", "json", "--tensors"]) == 0
    assert b'"grid": null' in capfdbinary.readouterr().out


def test_inspect_shows_the_grids_of_low_bit_tensors(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    model = models.model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight.sign_().mul_(0.5)
    models.save(model, tmp_path / "model")
    assert main(["inspect", str(tmp_path / "model"), "--tensors"]) == 0
    text = capfdbinary.readouterr().out.decode()
    assert text.count("binary per tensor") == 2
    assert "0.0%" in text


@pytest.mark.parametrize("command", ["run", "inspect", "selftest"])
def test_a_directory_of_checkpoints_is_for_batch(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = within(capsys, command, str(NANOGPT))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1].endswith(f"{NANOGPT}: holds 6 checkpoints: use batch, or name one of them")


def test_a_directory_of_one_checkpoint_names_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "deep").mkdir()
    shutil.copy(NANOGPT / "ckpt.pt", tmp_path / "deep/ckpt.pt")
    done = within(capsys, "inspect", str(tmp_path))
    assert done.returncode == 3
    assert f"{tmp_path}: holds one checkpoint, {tmp_path / 'deep/ckpt.pt'}: name that" in done.stderr


def test_other_directories_are_what_they_were_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "has none of model.safetensors" in within(capsys, "inspect", str(tmp_path)).stderr
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").touch()
    assert "holds an adapter" in within(capsys, "inspect", str(tmp_path)).stderr


def foreign(family: str, folder: Path) -> Path:
    """A tiny random model of a family that transformers knows and that can't be audited."""
    sizes = {
        "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
        "openai-gpt": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
        "mixtral": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    }
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 64}
    config = transformers.CONFIG_MAPPING[family](**sizes[family], **special)
    return models.save(transformers.AutoModelForCausalLM.from_config(config), folder)


@pytest.mark.parametrize(
    ("family", "reason"),
    [
        ("mamba", "the family 'mamba' can't be audited: its blocks are recurrent"),
        ("openai-gpt", "the family 'openai-gpt' can't be audited: its blocks don't return hidden states"),
    ],
)
def test_a_family_that_cannot_be_audited_is_said_first(
    family: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = foreign(family, tmp_path / family)
    done = within(capsys, "run", str(folder))
    assert (done.returncode, done.stdout) == (3, "")
    refusal = done.stderr.splitlines()[-1]
    assert refusal.startswith("peelaudit: error: ")
    assert reason in refusal
    looked = within(capsys, "inspect", str(folder))
    assert looked.returncode == 3
    assert looked.stderr.startswith(refusal)
    assert looked.stderr.count("error") == 1
    assert (f"{family} (" in looked.stdout) == (family == "openai-gpt")  # the others' are not a decoder's facts


def test_a_variant_that_cannot_be_audited_is_said_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = models.save(models.model("opt", do_layer_norm_before=False), tmp_path / "opt")
    for command in ("run", "inspect"):
        done = within(capsys, command, str(folder))
        assert done.returncode == 3
        assert "its blocks end in a norm of the residual stream, and can't be peeled\n" in done.stderr
    assert json.loads(within(capsys, "inspect", str(folder), "-f", "json").stdout)["family"] == "opt"


def test_what_only_the_proof_finds_is_said_first_when_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(models.save(models.model("llama"), tmp_path / "llama"))
    proven = within(capsys, "inspect", folder, "--prove")
    assert proven.returncode == 0
    assert proven.stderr.endswith("peelaudit: the network that an audit puts together is transformers' own\n")
    of_llama = transformers.LlamaForCausalLM.forward

    def biased(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = of_llama(self, *args, **kwargs)
        if not output.logits.is_meta:  # where the structure is looked at
            output.logits = output.logits + torch.arange(64) * 1e-3
        return output

    monkeypatch.setattr(transformers.LlamaForCausalLM, "forward", biased)
    assert within(capsys, "inspect", folder, "-f", "json").returncode == 0
    refused = within(capsys, "inspect", folder, "--prove")
    assert refused.returncode == 3
    assert f"error: {folder}: transformers' logits aren't those of the final norm and the head alone" in refused.stderr
    assert "llama (LlamaForCausalLM)" in refused.stdout


@pytest.fixture
def apart(tmp_path: Path) -> tuple[Path, Path]:
    """Weights alone, and a directory with their config.json and tokenizer."""
    (weights := tmp_path / "weights").mkdir()
    (described := tmp_path / "described").mkdir()
    shutil.copy(FIXTURES / "llama/model.safetensors", weights / "model.safetensors")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FIXTURES / "llama" / name, described)
    return weights, described


@pytest.mark.parametrize("name", ["", "config.json"])
@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_a_config_may_be_a_directory_and_its_tokenizer_serves(file: str, name: str, apart: tuple[Path, Path]) -> None:
    weights, described = apart
    with open_checkpoint(weights / file, config=described / name) as opened:
        assert opened.info.tokenizer == str(described / "tokenizer.json")
        text = str(FIXTURES / "llama/calibration.txt")
        config = AuditConfig(checkpoint=opened.info.path, data=(text,), config=str(described / name), tokens=2048)
        assert load_calibration(config, opened.info).info.tokenizer == str(described)
        shutil.copy(FIXTURES / "llama/tokenizer.json", weights)  # its own goes first
        assert load_calibration(config, opened.info).info.tokenizer == str(weights / "tokenizer.json")
        given = dataclasses.replace(config, tokenizer=str(FIXTURES / "llama"))
        assert load_calibration(given, opened.info).info.tokenizer == str(FIXTURES / "llama")


def test_a_config_directory_without_one_is_told(
    apart: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, _ = apart
    done = within(capsys, "inspect", str(weights), "--config", str(tmp_path))
    assert done.returncode == 3
    assert f"'{tmp_path / 'config.json'}': no such file" in done.stderr


def test_a_parent_is_named_by_a_file_or_a_variable_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parent = tmp_path / "runs" / "ckpt.pt"
    parent.parent.mkdir()
    shutil.copy(NANOGPT / "ckpt-001200.pt", parent)
    (tmp_path / "peelaudit.toml").write_text('parent = "runs/ckpt.pt"\n')
    monkeypatch.chdir(tmp_path)
    small = ["--tokens", "1536", "--seq-len", "32", "--resamples", "100", "--effort", "quick", "-q", "-o", "r.json"]
    assert (
        within(capsys, "run", str(NANOGPT / "ckpt.pt"), *small, "--tokenizer", str(NANOGPT / "meta.pkl")).returncode
        == 0
    )
    report = read_report("r.json")
    assert report.parent is not None
    assert report.parent.checkpoint.path == str(parent)
    assert all(row.parent_gap for row in report.layers)
    done = within(capsys, "run", str(NANOGPT / "ckpt.pt"), *small, "--parent", str(parent.parent))
    assert done.returncode == 3
    assert f"holds one checkpoint, {parent}: name that" in done.stderr
