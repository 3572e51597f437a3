"""Files of torch.save: nanoGPT, Lightning and plain state dicts, and the damage and the traps that they may carry."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from peelaudit.checkpoints import open_checkpoint
from peelaudit.errors import (
    CheckpointError,
    MalformedCheckpoint,
    MismatchedWeights,
    NonFiniteWeights,
    UnreadableCheckpoint,
    UnsupportedCheckpoint,
)
from tests.checkpoints.models import model, nanogpt, save
from tests.checkpoints.support import Change, colliding_integers, program, replacing, rewrite, shared_tuples, without


def nanogpt_logits(checkpoint: dict, tokens: torch.Tensor) -> torch.Tensor:
    """nanoGPT's forward pass in plain torch, by its own names: an independent reading of the same file."""
    state = {name.removeprefix("_orig_mod."): tensor for name, tensor in checkpoint["model"].items()}
    heads, width = checkpoint["model_args"]["n_head"], checkpoint["model_args"]["n_embd"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, (width,), state[f"{name}.weight"], state.get(f"{name}.bias"), 1e-5)

    positions = torch.arange(tokens.shape[1])
    x = state["transformer.wte.weight"][tokens] + state["transformer.wpe.weight"][positions]
    for layer in range(checkpoint["model_args"]["n_layer"]):
        block = f"transformer.h.{layer}"
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn").split(width, dim=2)
        )
        mixed = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + linear(mixed.transpose(1, 2).flatten(2), f"{block}.attn.c_proj")
        hidden = torch.nn.functional.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc"))
        x = x + linear(hidden, f"{block}.mlp.c_proj")
    return norm(x, "transformer.ln_f") @ state["lm_head.weight"].T


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_nanogpt_computes_what_nanogpt_computes(bias: bool, prefix: str, tmp_path: Path) -> None:
    content = nanogpt(bias=bias, prefix=prefix)
    torch.save(content, tmp_path / "ckpt.pt")
    with open_checkpoint(tmp_path / "ckpt.pt") as checkpoint:
        checkpoint.check_weights()
        info = checkpoint.info
        assert (info.format, info.family, info.layers, info.context, info.training_step) == (
            "nanogpt",
            "gpt2",
            2,
            16,
            250,
        )
        assert info.tied_head
        assert checkpoint.ignored == tuple(f"{prefix}transformer.h.{layer}.attn.bias" for layer in range(2))
        stored = {name.removeprefix(prefix): tensor for name, tensor in content["model"].items()}
        used = {tensor.data_ptr(): tensor for name, tensor in stored.items() if not name.endswith(".attn.bias")}
        assert info.parameters == sum(tensor.numel() for tensor in used.values())
        module = checkpoint.skeleton()
        weights = {name: checkpoint.tensor(name) for name in checkpoint.names()}
        module.load_state_dict(weights, assign=True)
        tokens = torch.arange(24).reshape(2, 12) % 64
        torch.testing.assert_close(module(tokens).logits, nanogpt_logits(content, tokens), rtol=1e-4, atol=1e-4)


def test_a_nanogpt_from_before_the_bias_argument_has_the_approximate_gelu(tmp_path: Path) -> None:
    content = nanogpt(bias=True)
    del content["model_args"]["bias"]
    torch.save(content, tmp_path / "ckpt.pt")
    with open_checkpoint(tmp_path / "ckpt.pt") as checkpoint:
        assert checkpoint.config.activation_function == "gelu_new"


def test_a_fork_of_nanogpt_is_refused(tmp_path: Path) -> None:
    content = nanogpt(bias=False)
    content["model_args"]["use_rmsnorm"] = True
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(UnsupportedCheckpoint, match="'use_rmsnorm' isn't nanoGPT's own"):
        open_checkpoint(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("layers", [1, 3, 10**9, 0.5, "2"])
def test_nanogpts_arguments_must_fit_its_tensors(layers: object, tmp_path: Path) -> None:
    content = nanogpt(bias=False)
    content["model_args"]["n_layer"] = layers
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises((MismatchedWeights, MalformedCheckpoint), match=r"ckpt\.pt"):
        open_checkpoint(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("wrap", "kind", "step"),
    [
        (lambda state: state, "torch", None),
        (lambda state: {"model_state_dict": state, "epoch": 3}, "torch", None),
        (lambda state: {f"module.{name}": tensor for name, tensor in state.items()}, "torch", None),
        (
            lambda state: {
                "state_dict": {f"net.model.{name}": tensor for name, tensor in state.items()},
                "pytorch-lightning_version": "2.5.0",
                "global_step": 1200,
                "loops": {"fit_loop": {"state_dict": {}}},
            },
            "lightning",
            1200,
        ),
    ],
)
def test_state_dicts_with_a_configuration_beside_them(
    wrap: Callable[[dict], dict], kind: str, step: int | None, tmp_path: Path
) -> None:
    made = model("llama")
    state = made.state_dict()
    made.config.save_pretrained(tmp_path)
    torch.save(wrap(dict(state)), tmp_path / "last.ckpt")
    with open_checkpoint(tmp_path / "last.ckpt") as checkpoint:
        assert (checkpoint.info.format, checkpoint.info.training_step) == (kind, step)
        assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in state.items())
        checkpoint.check_weights()


def test_views_of_one_storage_are_read_apart(tmp_path: Path) -> None:
    made = model("llama", tie_word_embeddings=False)
    state = made.state_dict()
    square = state["model.layers.0.self_attn.q_proj.weight"]
    both = torch.stack([square, square + 1])
    state["model.layers.0.self_attn.q_proj.weight"] = both[0].T
    state["model.layers.1.self_attn.q_proj.weight"] = both[1]
    made.config.save_pretrained(tmp_path)
    torch.save(state, tmp_path / "views.pt")
    with open_checkpoint(tmp_path / "views.pt") as checkpoint:
        assert torch.equal(checkpoint.tensor("model.layers.0.self_attn.q_proj.weight"), square.T)
        assert torch.equal(checkpoint.tensor("model.layers.1.self_attn.q_proj.weight"), square + 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    made = model("llama")
    with torch.no_grad():
        made.model.layers[1].mlp.up_proj.weight[5, 7:9] = value
    save(made, tmp_path)
    with open_checkpoint(tmp_path) as checkpoint:
        message = (
            r"'model\.layers\.1\.mlp\.up_proj\.weight' holds 2 NaN or Inf among 1536 values, the first at \[5, 7\]"
        )
        with pytest.raises(NonFiniteWeights, match=message):
            checkpoint.check_weights()


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path: Path) -> Path:
    torch.save(nanogpt(bias=False), tmp_path / "good.pt")
    return tmp_path / "good.pt"


def refuse(path: Path, kind: type[CheckpointError], message: str) -> None:
    with pytest.raises(kind, match=message) as caught, open_checkpoint(path) as checkpoint:
        checkpoint.check_weights()
    text = str(caught.value)
    assert path.name in text
    assert "\n" not in text
    assert "weights_only" not in text


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (b"", MalformedCheckpoint, "is empty"),
        (bytes(range(1, 200)), UnreadableCheckpoint, "isn't a file that torch.save wrote"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", UnreadableCheckpoint, "Git LFS pointer"),
        (b"<!DOCTYPE html><html></html>", UnreadableCheckpoint, "web page"),
        (bytes(4096), UnreadableCheckpoint, "isn't a file that torch.save wrote"),
    ],
)
def test_files_that_are_something_else(content: bytes, kind: type, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    refuse(tmp_path / "model.pt", kind, message)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_archive(good: Path, keep: float) -> None:
    raw = good.read_bytes()
    good.write_bytes(raw[: int(len(raw) * keep)])
    refuse(good, MalformedCheckpoint, "is truncated")


def test_appended_bytes(good: Path) -> None:
    good.write_bytes(good.read_bytes() + bytes(1 << 20))
    refuse(good, MalformedCheckpoint, "appended")


def test_a_flipped_bit_in_a_weight(good: Path) -> None:
    raw = bytearray(good.read_bytes())
    raw[raw.index(b"data/0") + 2000] ^= 1
    good.write_bytes(raw)
    refuse(good, MalformedCheckpoint, "doesn't have its checksum")


def quantised(*shape: int) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.ones(shape), 0.5, 0, torch.qint8)


@dataclasses.dataclass
class Settings:
    rate: float = 1.5
    path: Path = Path("here")


class Pickled:
    """Something that acts when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.write_text, (self.path, "run")


@pytest.mark.parametrize(
    "thing",
    [
        argparse.Namespace(a=1),
        np.float64(1.5),
        np.arange(3),
        torch.nn.Linear(2, 2),
        torch.optim.AdamW,
        Settings(),
        collections.Counter("ab"),
        collections.defaultdict(list, a=[1]),
        {1, 2},
        frozenset({(1, "a")}),
        {(1, 2): {3: b"x"}},
        complex(1, 2),
        bytearray(8),
        torch.float16,
        torch.device("cpu"),
        quantised(2),
        torch.eye(2).to_sparse(),
        torch.empty(2, device="meta"),
    ],
    ids=lambda thing: type(thing).__name__,
)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_stands_beside_the_tensors_is_inert(thing: object, tmp_path: Path) -> None:
    content = nanogpt(bias=False)
    torch.save({"before": thing, **content, "after": [thing]}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert torch.equal(checkpoint.tensor("transformer.wte.weight"), content["model"]["transformer.wte.weight"])
        checkpoint.check_weights()


@pytest.mark.parametrize("protocol", range(1, 6))  # torch itself can't read what it writes by protocol 0
def test_pickles_of_every_protocol(protocol: int, tmp_path: Path) -> None:
    content = {**nanogpt(bias=False), "hyper_parameters": argparse.Namespace(a=Settings(), b=np.float32(2))}
    torch.save(content, tmp_path / "model.pt", pickle_protocol=protocol)
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert torch.equal(checkpoint.tensor("lm_head.weight"), content["model"]["lm_head.weight"])


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    torch.save({**nanogpt(bias=False), "extra": Pickled(tmp_path / "written")}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        checkpoint.check_weights()
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]


@pytest.mark.parametrize(
    "thing",
    [
        torch.eye(64, 32).to_sparse(),
        torch.empty(64, 32, device="meta"),
        quantised(64, 32),
        np.zeros((64, 32)),
        Settings(),
    ],
    ids=["sparse", "meta", "quantised", "array", "object"],
)
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_a_weight_that_is_no_dense_tensor_is_named(thing: object, nested: bool, tmp_path: Path) -> None:
    made = model("llama")
    made.config.save_pretrained(tmp_path)
    state = {**made.state_dict(), "model.embed_tokens.weight": thing}
    torch.save({"state_dict": state} if nested else state, tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", MismatchedWeights, r"'model\.embed_tokens\.weight' is a '.*', not a dense tensor")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_of_weights(dtype: torch.dtype, tmp_path: Path) -> None:
    made = model("llama").to(dtype)
    made.config.save_pretrained(tmp_path)
    torch.save(made.state_dict(), tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        for name, tensor in made.state_dict().items():
            assert torch.equal(checkpoint.tensor(name), tensor)
            assert checkpoint.tensor(name).dtype == dtype


@pytest.mark.parametrize("dtype", [torch.complex64, torch.float8_e4m3fn, torch.uint16, torch.bool])
def test_a_weight_of_another_dtype_is_named(dtype: torch.dtype, tmp_path: Path) -> None:
    made = model("llama")
    made.config.save_pretrained(tmp_path)
    torch.save({**made.state_dict(), "model.norm.weight": torch.ones(32).to(dtype)}, tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", UnsupportedCheckpoint, rf"'model\.norm\.weight' is stored as {str(dtype)[6:]}")


def test_parameters_and_tensors_with_attributes(tmp_path: Path) -> None:
    made = model("llama")
    made.config.save_pretrained(tmp_path)
    state = {name: torch.nn.Parameter(tensor) for name, tensor in made.state_dict().items()}
    for tensor in state.values():
        tensor.note = {"kept": True}
    torch.save(state, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in state.items())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_program(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", UnsupportedCheckpoint, "TorchScript")


def test_the_old_format(tmp_path: Path) -> None:
    torch.save(nanogpt(bias=False), tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    refuse(tmp_path / "model.pt", UnsupportedCheckpoint, "old format")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("data.pkl"), "no record 'data.pkl'"),
        (without("/version"), "no record 'version'"),
        (without("data/1"), "the record 'data/1', .* 'transformer.wpe.weight', is missing: .* promises 2048 bytes"),
        (replacing("data/0", bytes(12)), "the record 'data/0', .* is too short: it has 12 bytes, .* promises 8192"),
        (replacing("data/0", bytes(100_000)), "'data/0', .* is too long: it has 100000 bytes, .* promises 8192"),
        (replacing("byteorder", b"middle"), "byte order"),
        (replacing("byteorder", b"big"), "big-endian"),
        (replacing("data.pkl", b"\x80\x02}\xff."), "pickle is damaged"),
        (replacing("data.pkl", b"\x80\x02."), "pickle is damaged"),
        (replacing("data.pkl", b"\x80\x02q"), "pickle is damaged"),
        (replacing("data.pkl", b""), "pickle is damaged"),
        (lambda name, data: [(f"other/{name}" if "version" in name else name, data)], "isn't an archive"),
    ],
)
def test_damaged_archives(good: Path, change: Change, message: str) -> None:
    rewrite(good, change)
    refuse(good, CheckpointError, message)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_a_record_twice(good: Path) -> None:
    rewrite(good, lambda name, data: [(name, data)] * (2 if name.endswith("data.pkl") else 1))
    refuse(good, MalformedCheckpoint, "'data.pkl' twice")


def test_a_deflated_bomb(good: Path) -> None:
    rewrite(good, replacing("data/0", bytes(64 << 20)), zipfile.ZIP_DEFLATED)
    assert good.stat().st_size < 1 << 20
    refuse(good, MalformedCheckpoint, "compressed")


def test_a_record_whose_name_differs_in_case_alone(good: Path) -> None:
    rewrite(good, lambda name, data: [(new, data) for new in {name.replace("data.pkl", "DATA.PKL"), name}])
    refuse(good, MalformedCheckpoint, "twice")


def test_a_second_directory(good: Path) -> None:
    raw = good.read_bytes()
    good.write_bytes(raw[:-22] + raw)
    refuse(good, MalformedCheckpoint, "doesn't lie where its end record says|is damaged")


@pytest.mark.parametrize("entries", [1, 3, 65535])
def test_a_directory_of_another_length_than_it_says(entries: int, good: Path) -> None:
    rewrite(good, lambda name, data: [(name, data)])
    raw = bytearray(good.read_bytes())
    struct.pack_into("<2H", raw, len(raw) - 14, entries, entries)
    good.write_bytes(raw)
    refuse(good, MalformedCheckpoint, "directory of its zip archive is damaged")


def billion_laughs() -> bytes:
    steps = b"".join(b"]q" + bytes([n + 1]) + b"(" + b"h" + bytes([n]) + b"h" + bytes([n]) + b"e" for n in range(60))
    return b"]q\x00" + steps + b"."


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R.", "holds a '__builtin__.bytearray'"),
        (b"cbuiltins\neval\nX\x04\x00\x00\x001+1=\x85R.", "holds a 'builtins.eval'"),
        (b"cos\nsystem\nX\x02\x00\x00\x00id\x85R.", "holds a 'os.system'"),
        (b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93.", "holds a 'os.system'"),
        (b"(X\x02\x00\x00\x00idios\nsystem\n.", "holds a 'os.system'"),
        (b"}q\x00X\x01\x00\x00\x00ah\x00s.", "no state dict found"),
        (billion_laughs(), "expected a state dict"),
        (b"]" * 200_000 + b"a" * 199_999 + b".", "expected a state dict"),
        (b"0" * 4_000_000 + b".", "pickle is (longer|damaged)"),
        (b"K\x01.", "expected a state dict"),
        (shared_tuples(), "no state dict found"),
        (b"}" + b")" + b"\x85" * 200_000 + b"Ns.", "no state dict found"),
        (colliding_integers(), "no state dict found"),
        (b"cos\nsystem\n" + b")R" * 1_000_000 + b".", "holds a 'what a call made'"),
        (b"cos\nsystem\n" + b"\x85cos\nsystem\n" * 200_000 + b".", "holds a 'os.system'"),
        (b"cos\n" + b"x" * 2000 + b"\n.", "pickle is damaged"),
        (b"Nr\xff\xff\xff\x7f.", "pickle is damaged"),
        (b"\x82\x01.", "the instruction EXT1"),
        (b"\x8b\x00\x00\x10\x00" + bytes(1 << 20) + b".", "the instruction LONG4"),
        (b"X\x01\x00\x00\x00aQ.", "isn't a storage of torch.save"),
        (b"Papple\n.", "the instruction PERSID"),
        (b"}(X\x01\x00\x00\x00aNX\x01\x00\x00\x00aNu.", "has the key 'a' twice"),
        (b"}X\x01\x00\x00\x00aNs", "pickle is damaged"),
        (b"(.", "pickle is damaged"),
    ],
    ids=lambda given: None if isinstance(given, str) else f"{len(given)} {given[:8]!r}",
)
def test_hostile_pickles(good: Path, body: bytes, message: str) -> None:
    rewrite(good, program(body))
    refuse(good, CheckpointError, message)


def test_arguments_that_would_be_long_to_print(good: Path, tmp_path: Path) -> None:
    content = nanogpt(bias=False)
    laughs: list[object] = []
    for _ in range(60):
        laughs = [laughs, laughs]
    content["model_args"]["n_layer"] = laughs
    torch.save(content, tmp_path / "laughs.pt")
    refuse(tmp_path / "laughs.pt", UnsupportedCheckpoint, "among its model_args is a 'list'")


def test_a_stretched_tensor(good: Path, tmp_path: Path) -> None:
    content = nanogpt(bias=False)
    content["model"]["transformer.wte.weight"] = torch.zeros(1).expand(1_000_000, 1_000_000)
    torch.save(content, tmp_path / "stretched.pt")
    assert (tmp_path / "stretched.pt").stat().st_size < 1 << 20
    refuse(
        tmp_path / "stretched.pt",
        MalformedCheckpoint,
        "needs 4000000000000 bytes of the record 'data/\\d+', which has 4",
    )


def test_a_tensor_that_reaches_beyond_its_record(good: Path) -> None:
    def reaching(name: str, data: bytes) -> list[tuple[str, bytes]]:
        # (storage, offset 0, (64, 32), (32, 1), …): the first tensor begins a row later
        return [(name, data.replace(b"QK\x00K@K ", b"QK K@K ", 1) if name.endswith("data.pkl") else data)]

    rewrite(good, reaching)
    refuse(
        good, MalformedCheckpoint, "'transformer.wte.weight' needs 8320 bytes of the record 'data/0', which has 8192"
    )


def test_names_that_are_not_text(tmp_path: Path) -> None:
    torch.save({7: torch.ones(2)}, tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", MalformedCheckpoint, "of type 'int', not text")


def test_names_are_escaped_in_messages(tmp_path: Path) -> None:
    made = model("llama")
    made.config.save_pretrained(tmp_path)
    state = {**made.state_dict(), "lm_head.\x1b[31m\n": torch.ones(2)}
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(MismatchedWeights) as caught:
        open_checkpoint(tmp_path / "model.pt")
    assert "\x1b" not in str(caught.value)
    assert r"\x1b[31m\n" in str(caught.value)


def test_too_many_tensors(tmp_path: Path) -> None:
    one = torch.ones(1)
    torch.save({str(index): one for index in range(120_000)}, tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", MalformedCheckpoint, "more than any model has")


def test_a_file_that_changes_while_it_is_open(good: Path) -> None:
    with open_checkpoint(good) as checkpoint:
        with good.open("r+b") as handle:
            handle.truncate(5000)
        with pytest.raises(MalformedCheckpoint, match="was changed while it was being read"):
            checkpoint.check_weights()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system lists no open files")
def test_nothing_is_left_open_after_a_refusal(good: Path) -> None:
    raw = good.read_bytes()
    before = len(list(Path("/proc/self/fd").iterdir()))
    good.write_bytes(raw[:-1])
    for _ in range(3):
        with pytest.raises(MalformedCheckpoint):
            open_checkpoint(good)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_a_legacy_tar(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "model.pt", "w") as archive:
        data = pickle.dumps({})
        entry = tarfile.TarInfo("pickle")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    refuse(tmp_path / "model.pt", UnsupportedCheckpoint, "old format")


def test_a_directory_that_claims_more_than_the_file(good: Path) -> None:
    raw = bytearray(good.read_bytes())
    struct.pack_into("<L", raw, len(raw) - 10, 1 << 31)
    good.write_bytes(raw)
    refuse(good, MalformedCheckpoint, "directory")


def test_a_configuration_for_other_weights(good: Path, tmp_path: Path) -> None:
    made = model("llama")
    made.config.save_pretrained(tmp_path / "other")
    torch.save({"state_dict": {}, "x": 1}, tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", UnsupportedCheckpoint, "no state dict found")
    torch.save(model("gpt2").state_dict(), tmp_path / "gpt2.pt")
    with pytest.raises(MismatchedWeights, match="of 21 tensors are missing"):
        open_checkpoint(tmp_path / "gpt2.pt", config=tmp_path / "other" / "config.json")
    assert json.loads((tmp_path / "other" / "config.json").read_text())["model_type"] == "llama"
