"""Which checkpoints are found, and in which order."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from peelaudit.errors import ConfigError
from peelaudit.fleet.finding import RESULTS_FILE, find_checkpoints, natural


def touch(root: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(*arguments: str, stdin: bytes = b"") -> tuple[str, ...]:
    return find_checkpoints(arguments, stdin=io.BytesIO(stdin)).checkpoints


def test_numbers_sort_as_numbers(here: Path) -> None:
    touch(here, "run/ckpt-1000.pt", "run/ckpt-900.pt", "run/ckpt-0.pt", "run9/a.pt", "run10/a.pt", "run.pt")
    assert find("run") == ("run/ckpt-0.pt", "run/ckpt-900.pt", "run/ckpt-1000.pt")
    assert find(".")[-3:] == ("./run9/a.pt", "./run10/a.pt", "./run.pt")


def test_natural_order_compares_any_two_names() -> None:
    names = ["a/1", "a/b", "1/a", "a", "a1b2", "a1b10", "a01b2", "", "/a/1", "1", "-1"]
    ordered = sorted(names, key=natural)
    assert ordered == sorted(names[5:] + names[:5], key=natural)
    assert ordered.index("a1b2") < ordered.index("a1b10")


def test_a_hugging_face_directory_is_one(here: Path) -> None:
    shards = [f"hf/model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    touch(here, "hf/config.json", "hf/model.safetensors.index.json", *shards, "hf/optimizer.pt", "hf/loose.pt")
    touch(here, "hf/checkpoint-500/model.safetensors", "hf/checkpoint-1000/model.safetensors", "hf/original/a.pth")
    assert find("hf") == ("hf", "hf/checkpoint-500", "hf/checkpoint-1000")


def test_shards_without_an_index_are_one_that_will_say_so(here: Path) -> None:
    touch(here, "hf/model-00001-of-00002.safetensors", "hf/model-00002-of-00002.safetensors")
    assert find("hf") == ("hf",)


def test_a_distributed_checkpoint_is_one(here: Path) -> None:
    touch(here, "d/.metadata", "d/__0_0.distcp")
    assert find("d") == ("d",)


def test_a_step_of_deepspeed_is_one(here: Path) -> None:
    states = [f"zero_pp_rank_{n}_mp_rank_00_optim_states.pt" for n in (0, 1)]
    for step in ("d/global_step9", "d/global_step10"):
        touch(here, f"{step}/mp_rank_00_model_states.pt", *(f"{step}/{name}" for name in states))
    touch(here, "d/global_step8/zero_pp_rank_0_mp_rank_00_model_states.pt", "d/global_step8/" + states[0])
    touch(here, "d/latest", "d/global_step10/zero/model.norm.weight/fp32.pt")
    assert find("d") == ("d/global_step8", "d/global_step9", "d/global_step10")


def test_only_the_first_of_a_split_gguf(here: Path) -> None:
    touch(here, "m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "n.gguf")
    assert find(".") == ("./m-00001-of-00002.gguf", "./n.gguf")


def test_what_is_left_out(here: Path) -> None:
    touch(here, ".hidden.pt", ".git/a.pt", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "notes.txt", "meta.pkl")
    touch(here, "results/" + RESULTS_FILE, "results/tasks/a/model.pt", "train.bin", "b_optim_states.pt")
    assert find(".") == ()


def test_a_bin_counts_if_it_is_a_torch_file(here: Path) -> None:
    touch(here, "model_a.bin", content=b"PK\x03\x04")
    touch(here, "old.bin", content=b"\x80\x02.")
    touch(here, "val.bin", content=b"\x01\x00\x02\x00")
    os.mkfifo(here / "pipe.bin")
    assert find(".") == ("./model_a.bin", "./old.bin")


def test_named_outright_counts_whatever_it_is(here: Path) -> None:
    touch(here, "optimizer.pt", "train.bin")
    assert find("optimizer.pt", "train.bin", "missing.pt", "missing") == (
        *("optimizer.pt", "train.bin", "missing.pt", "missing"),
    )


def test_a_link_is_no_second_checkpoint(here: Path) -> None:
    touch(here, "z.ckpt")
    (here / "last.ckpt").symlink_to("z.ckpt")
    assert find(".") == ("./z.ckpt",)
    assert find("last.ckpt") == ("last.ckpt",)
    assert find("z.ckpt", ".", "./z.ckpt") == ("z.ckpt",)


def test_a_linked_loop_ends(here: Path) -> None:
    touch(here, "a/x.pt")
    (here / "a/loop").symlink_to("..")
    assert find(".") == ("./a/x.pt",)


def test_globs(here: Path) -> None:
    touch(here, "r/ckpt-10.pt", "r/ckpt-9.pt", "r/ckpt.txt", "r/deep/er/b.pt", "hf/model.safetensors")
    assert find("r/*") == ("r/ckpt-9.pt", "r/ckpt-10.pt", "r/deep/er/b.pt")
    assert find("**/*.pt") == ("r/ckpt-9.pt", "r/ckpt-10.pt", "r/deep/er/b.pt")
    assert find("h*") == ("hf",)
    assert find("no*") == ()


def test_a_name_that_looks_like_a_glob(here: Path) -> None:
    touch(here, "epoch=1[best].ckpt")
    assert find("epoch=1[best].ckpt") == ("epoch=1[best].ckpt",)


def test_lists(here: Path) -> None:
    touch(here, "b.pt", "run/c-2.pt", "run/c-1.pt")
    touch(here, "list.txt", content=b"# mine\n\n b.pt \nmissing.pt\nrun\r\n")
    expected = ("b.pt", "missing.pt", "run/c-1.pt", "run/c-2.pt")
    assert find("list.txt") == expected
    assert find("-", stdin=(here / "list.txt").read_bytes()) == expected


def test_what_holds_nothing_is_told(here: Path) -> None:
    touch(here, "a/x.pt", "b/notes.txt", "list.txt")
    (here / "none.txt").write_text("# nothing\n")
    (here / "list.txt").write_text("a\nb\nmissing.pt\n")
    found = find_checkpoints(["a", "b", "c*", "list.txt", "none.txt", "./a", "x.pt"], stdin=io.BytesIO())
    assert found.checkpoints == ("a/x.pt", "missing.pt", "x.pt")
    assert found.empty == ("b", "c*", "none.txt")


def test_a_file_that_is_no_list(here: Path) -> None:
    touch(here, "weights", content=b"\0\1\2")
    with pytest.raises(ConfigError, match="neither a checkpoint nor a list"):
        find("weights")


@pytest.mark.parametrize("argument", ["", "a\0b"])
def test_no_path(argument: str) -> None:
    with pytest.raises(ConfigError, match="is no path"):
        find(argument)
