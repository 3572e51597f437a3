"""The odd networks on a tiny scale: trained, saved with their tokenizer, judged, and taken up again."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from bench.studies import odd
from bench.studies.odd import ODD, Losses, Odd, Role, odd_networks
from bench.studies.plan import Architecture, Shape, Study, untrained
from peelaudit.calibration.encoder import encode_document
from peelaudit.calibration.tokenization import find_tokenizer
from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import ConfigError
from peelaudit.network.decoder import Decoder

TINY = Study(train_tokens=4_000, test_tokens=512, vocabulary=300, heads=2, context=32, rows=16)
NETWORKS = {
    "long": Odd(role=Role.TUNING, layers=1, width=16, steps=60, train_tokens=300),
    "short": Odd(role=Role.TUNING, layers=1, width=16, steps=60, stop=3),
    "dropout": Odd(role=Role.ASIDE, layers=2, width=16, steps=8, architecture=Architecture.GPT2, dropout=0.5),
}


@pytest.fixture(scope="module")
def made(texts: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Losses]]:
    folder: Path = tmp_path_factory.mktemp("odd")
    return folder, odd_networks(*texts, folder, study=TINY, networks=NETWORKS)


def test_every_network_can_be_audited(made: tuple[Path, dict[str, Losses]]) -> None:
    out, _ = made
    for name, network in NETWORKS.items():
        with open_checkpoint(out / name) as checkpoint:
            decoder = Decoder(checkpoint, seq_len=32, device=torch.device("cpu"), dtype=torch.float32)
        assert (decoder.n_layers, decoder.width, decoder.vocabulary) == (network.layers, network.width, 300)
        encoder = find_tokenizer(None, out / name, decoder.vocabulary)
        assert len(encode_document(encoder, "some words", limit=3, vocabulary=decoder.vocabulary)) == 3


def test_the_losses_are_written_with_what_each_network_is_for(made: tuple[Path, dict[str, Losses]]) -> None:
    out, losses = made
    saved = json.loads((out / "losses.json").read_text(encoding="utf-8"))
    assert saved == {name: dataclasses.asdict(of) for name, of in losses.items()}
    assert {name: of["role"] for name, of in saved.items()} == {
        "long": "tuning", "short": "tuning", "dropout": "kept aside"
    }  # fmt: skip
    written = (out / "losses.md").read_text(encoding="utf-8").splitlines()
    assert len(written) == 2 + len(NETWORKS)
    assert all(role in line for role, line in zip(("tuning", "tuning", "kept aside"), written[2:], strict=True))


def test_a_small_part_and_a_short_time_show_in_the_losses(made: tuple[Path, dict[str, Losses]]) -> None:
    _, losses = made
    assert losses["long"].train < losses["long"].validation - 0.2
    assert losses["short"].steps == 3
    assert losses["short"].train > losses["long"].train + 1
    assert all(of.seconds >= 0 for of in losses.values())


def test_a_network_is_judged_without_dropout(texts: tuple[Path, Path]) -> None:
    corpus = odd.read_corpus(*texts, TINY)
    model, _ = odd._trained(NETWORKS["dropout"], TINY, torch.from_numpy(corpus.trained[0]))
    assert model.config.resid_pdrop == 0.5
    assert not any(module.training for module in model.modules())


def test_what_is_there_is_not_trained_again(
    made: tuple[Path, dict[str, Losses]], texts: tuple[Path, Path], tmp_path: Path
) -> None:
    out, losses = made
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert odd_networks(*texts, out, ["long"], study=TINY, networks=NETWORKS) == losses
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == before
    again = odd_networks(*texts, tmp_path, ["short"], study=TINY, networks=NETWORKS)
    assert list(again) == ["short"]
    assert (tmp_path / "short/model.safetensors").read_bytes() == (out / "short/model.safetensors").read_bytes()


def test_networks_of_other_settings_are_kept_apart(
    made: tuple[Path, dict[str, Losses]], texts: tuple[Path, Path]
) -> None:
    with pytest.raises(ConfigError, match="other settings"):
        odd_networks(*texts, made[0], study=dataclasses.replace(TINY, seed=1), networks=NETWORKS)


def test_the_command_says_what_is_wrong_in_one_line(
    texts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "losses.json").write_text("[1]")
    train, test = (str(path) for path in texts)
    given = ["--train", train, "--test", test, "--out", str(tmp_path)]
    assert odd.main([*given, "--only", "bert"]) == 2
    assert odd.main(given) == 3
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert "no network bert" in errors[0]
    assert "and 320000 are trained on" in errors[1]


def test_half_of_the_networks_are_kept_aside() -> None:
    assert {name for name, network in ODD.items() if network.role is Role.TUNING} == {
        "overfitted", "early", "wide", "dropout"
    }  # fmt: skip
    assert {name for name, network in ODD.items() if network.role is Role.ASIDE} == {
        "deep", "decayed", "gpt2deep", "single"
    }  # fmt: skip
    assert odd.__doc__ is not None
    for name, network in ODD.items():
        (line,) = (line for line in odd.__doc__.splitlines() if line.startswith(f"| {name} "))
        assert line.endswith(f"| {network.role} |")


def test_dropout_where_there_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="dropout"):
        untrained(
            Shape(architecture=Architecture.LLAMA, layers=1, width=8, heads=2, vocabulary=9, context=4, dropout=0.1)
        )
