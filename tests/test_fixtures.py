"""The committed fixtures: what they are, what they learnt, and the rules of the text that they learnt it from."""

import math
import pickle
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from fixtures import grammar
from tests.losses import mean_loss
from tests.places import FIXTURES, NANOGPT

LLAMA = FIXTURES / "llama"
LLAMAS = [LLAMA, *sorted(FIXTURES.glob("llama-*"))]
MIXTRAL = FIXTURES / "mixtral"
SERIES = [*sorted(NANOGPT.glob("ckpt-*.pt")), NANOGPT / "ckpt.pt"]
MEBIBYTE = 2**20


# ---- The grammar: a parser that shares no code with the generator, and its own idea of the words ----

PLURALS = {f"{noun}s" for noun in grammar.NOUNS}


def parse_noun_phrase(words: list[str]) -> bool:
    """Consumes a noun phrase with its nested modifiers; returns whether its head is plural."""
    assert words.pop(0) == "the"
    head = words.pop(0)
    plural = head in PLURALS
    assert plural or head in grammar.NOUNS
    if words[:1] == ["near"]:
        words.pop(0)
        parse_noun_phrase(words)
    elif words[:2] == ["that", "the"]:
        words.pop(0)
        parse_verb(words, grammar.TRANSITIVE, plural=parse_noun_phrase(words))
    elif words[:1] == ["that"]:
        words.pop(0)
        parse_verb(words, grammar.TRANSITIVE, plural=plural)
        parse_noun_phrase(words)
    return plural


def parse_verb(words: list[str], verbs: tuple[str, ...], *, plural: bool) -> None:
    assert words.pop(0) in (verbs if plural else {f"{verb}s" for verb in verbs})


def parse_clause(text: str) -> None:
    words = text.split(" ")
    plural = parse_noun_phrase(words)
    if words[0] in {"is", "are"}:
        assert words.pop(0) == ("are" if plural else "is")
        assert words.pop(0) in grammar.ADJECTIVES
    elif words[0].removesuffix("s") in grammar.INTRANSITIVE:
        parse_verb(words, grammar.INTRANSITIVE, plural=plural)
    else:
        parse_verb(words, grammar.TRANSITIVE, plural=plural)
        parse_noun_phrase(words)
    assert words == []


def parse_nest(text: str) -> None:
    assert text
    while text:
        shorter = re.sub(r"\(\)|\[\]|\{\}", "", text)
        assert shorter != text
        text = shorter


def parse_pointers(text: str) -> None:
    bindings, question = text.split("; ")
    values: dict[str, str] = {}
    for binding in bindings.split(", "):
        name, source = binding
        assert name not in values
        values[name] = source if source.isdigit() else values[source]
    answers = [tuple(answer) for answer in question.split(", ")]
    assert sorted(answers) == sorted(values.items())


def parse_line(line: str) -> str:
    """Checks one line against the rules of its kind, and returns the kind."""
    assert line.endswith(".")
    kind, _, rest = line[:-1].partition(" ")
    match kind:
        case "the":
            parse_clause(line[:-1])
        case "list":
            count, _, items = rest.partition(": ")
            names = items.split(", ")
            assert ["one", "two", "three", "four", "five", "six"].index(count) + 1 == len(names) == len(set(names))
        case "hold":
            token, clause, copy = rest.split("; ")
            parse_clause(clause)
            assert copy == f"back {token}"
        case "nest":
            parse_nest(rest)
        case "sum":
            terms, _, total = rest.partition("=")
            assert sum(map(int, terms.split("+"))) == int(total)
        case "sort":
            given_letters, _, ordered = rest.partition(">")
            assert ordered == "".join(sorted(given_letters))
        case "let":
            parse_pointers(rest)
        case _:
            pytest.fail(f"no such line: {line!r}")
    return kind


@given(st.integers(0, 2**32))
def test_every_line_keeps_the_rules_of_its_kind(seed: int) -> None:
    for document in grammar.documents_up_to(seed, 1_000):
        assert 150 <= len(document) <= 600
        assert set(document) <= set(grammar.ALPHABET)
        assert document.endswith("\n")
        for line in document.splitlines():
            parse_line(line)


@given(st.integers(0, 2**32))
def test_a_document_draws_its_nouns_from_four(seed: int) -> None:
    document = next(grammar.documents(seed))
    words = {word.removesuffix("s") for word in re.findall(r"the (\w+)", document)}
    assert len(words) <= 4


def test_every_kind_of_line_is_written_and_nests() -> None:
    lines = "".join(grammar.documents_up_to(3, 50_000)).splitlines()
    counts = Counter(parse_line(line) for line in lines)
    assert set(counts) == {"the", "list", "hold", "nest", "sum", "sort", "let"}
    assert min(counts.values()) > 40
    assert any(line.count(" that the ") == 2 for line in lines), "no clause is embedded in another"


@pytest.mark.parametrize(
    "line",
    [
        "the bees that the man near the dogs hears is old.",
        "the man that the bees hears is old.",
        "list three: fig, pea.",
        "hold kq; the man sleeps; back qk.",
        "nest [(]).",
        "sum 3+5=9.",
        "sort cab>acb.",
        "let A4, C7, BA; C7, A4, B7.",
    ],
)
def test_the_parser_rejects_a_broken_rule(line: str) -> None:
    with pytest.raises(AssertionError):
        parse_line(line)


@given(st.integers(0, 2**32))
def test_a_seed_decides_the_text(seed: int) -> None:
    assert grammar.calibration_text(seed, 500) == grammar.calibration_text(seed, 500)
    assert grammar.calibration_text(seed, 500) != grammar.calibration_text(seed + 1, 500)


@pytest.mark.parametrize("directory", [NANOGPT, *LLAMAS, MIXTRAL], ids=lambda path: path.name)
def test_the_calibration_text_is_what_the_generator_writes(directory: Path) -> None:
    written = (directory / "calibration.txt").read_bytes().decode()
    assert written == grammar.calibration_text(seed=2, characters=200_000)
    assert 150_000 < len(written) < 250_000


def test_no_calibration_document_was_trained_on() -> None:
    trained = set(grammar.documents_up_to(1, 6_000_000))
    assert trained.isdisjoint(grammar.documents_up_to(2, 200_000))


# ---- The checkpoints ----


def load(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return checkpoint


def transformers_model(checkpoint: dict[str, Any]) -> GPT2LMHeadModel:
    """Reads nanoGPT's names back into GPT-2, whose Conv1D holds the transpose and whose biases stay at zero."""
    args = checkpoint["model_args"]
    config = GPT2Config(
        vocab_size=args["vocab_size"],
        n_positions=args["block_size"],
        n_embd=args["n_embd"],
        n_layer=args["n_layer"],
        n_head=args["n_head"],
        activation_function="gelu",
        bos_token_id=None,
        eos_token_id=None,
    )
    model = GPT2LMHeadModel(config).eval()
    transposed = {
        name: tensor.t() if re.search(r"c_(attn|proj|fc)\.weight$", name) else tensor
        for name, tensor in checkpoint["model"].items()
    }
    missing, unexpected = model.load_state_dict(transposed, strict=False)
    assert unexpected == []
    assert all(name.endswith(".bias") for name in missing)
    return model


def unigram_entropy(tokens: list[int]) -> float:
    counts = Counter(tokens)
    return -sum(n / len(tokens) * math.log(n / len(tokens)) for n in counts.values())


def bigram_entropy(tokens: list[int]) -> float:
    """Entropy of a token given the one before it, in sample: no bigram model does better on this text."""
    pairs = [a * 1_000 + b for a, b in pairwise(tokens)]
    return unigram_entropy(pairs) - unigram_entropy(tokens[:-1])


@pytest.fixture(scope="module")
def characters() -> list[int]:
    """The calibration text of the nanoGPT series by `meta.pkl`; a blank line stands between two documents."""
    stoi = pickle.loads((NANOGPT / "meta.pkl").read_bytes())["stoi"]
    text = (NANOGPT / "calibration.txt").read_text(encoding="utf-8").replace(grammar.SEPARATOR, "")
    return [stoi[character] for character in text]


FILES = sorted(path for directory in (NANOGPT, *LLAMAS, MIXTRAL) for path in directory.iterdir())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_each_file_is_small(path: Path) -> None:
    assert path.stat().st_size < 2 * MEBIBYTE


def test_the_files_are_small_together() -> None:
    assert sum(path.stat().st_size for path in FILES) < 14 * MEBIBYTE


def test_meta_is_nanogpts() -> None:
    meta = pickle.loads((NANOGPT / "meta.pkl").read_bytes())
    assert meta["vocab_size"] == len(meta["itos"]) == len(meta["stoi"])
    assert [meta["itos"][index] for index in range(meta["vocab_size"])] == sorted(grammar.ALPHABET)
    assert all(meta["stoi"][character] == index for index, character in meta["itos"].items())


def test_the_series_is_one_run() -> None:
    checkpoints = [load(path) for path in SERIES]
    steps = [checkpoint["iter_num"] for checkpoint in checkpoints]
    assert steps[0] == 0
    assert len(steps) >= 5
    assert steps == sorted(set(steps))
    first = checkpoints[0]
    assert 4 <= first["model_args"]["n_layer"] <= 6
    for path, checkpoint in zip(SERIES[:-1], checkpoints, strict=False):
        assert path.name == f"ckpt-{checkpoint['iter_num']:06d}.pt"
        assert checkpoint["model_args"] == first["model_args"]
        assert checkpoint["config"] == first["config"]


def test_the_state_dict_is_nanogpts() -> None:
    checkpoint = load(NANOGPT / "ckpt.pt")
    args, state = checkpoint["model_args"], checkpoint["model"]
    width = args["n_embd"]
    assert args["bias"] is False
    assert not any(name.endswith("bias") for name in state)
    assert len(state) == 4 + 6 * args["n_layer"]
    assert state["transformer.wpe.weight"].shape == (args["block_size"], width)
    assert state["transformer.h.0.attn.c_attn.weight"].shape == (3 * width, width)
    assert state["transformer.h.0.mlp.c_proj.weight"].shape == (width, 4 * width)
    assert state["lm_head.weight"].data_ptr() == state["transformer.wte.weight"].data_ptr()
    assert all(tensor.dtype == torch.float32 for tensor in state.values())


def test_losses_fall_along_the_series(characters: list[int]) -> None:
    tokens = torch.tensor(characters)
    losses = [mean_loss(transformers_model(load(path)), tokens, context=128) for path in SERIES]
    assert losses[0] == pytest.approx(math.log(len(grammar.ALPHABET)), abs=0.1)
    assert all(later < earlier for earlier, later in pairwise(losses))
    assert losses[-1] < 0.5 * bigram_entropy(characters)


def test_the_recorded_loss_is_that_of_the_weights(characters: list[int]) -> None:
    checkpoint = load(NANOGPT / "ckpt.pt")
    measured = mean_loss(transformers_model(checkpoint), torch.tensor(characters), context=128)
    assert measured == pytest.approx(checkpoint["best_val_loss"], rel=0.05)  # the record is over twice as many windows


@pytest.mark.parametrize(
    "directory", [LLAMA, FIXTURES / "llama-ternary", FIXTURES / "llama-binary", MIXTRAL], ids=lambda d: d.name
)
def test_a_directory_of_transformers_loads_and_has_learnt(directory: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    config = model.config
    assert config.model_type == ("mixtral" if directory == MIXTRAL else "llama")
    assert 4 <= config.num_hidden_layers <= 6
    assert config.num_key_value_heads < config.num_attention_heads

    documents = (directory / "calibration.txt").read_text(encoding="utf-8").split(f"{grammar.SEPARATOR}\n")
    tokens = tokenizer(tokenizer.eos_token.join(documents))["input_ids"]
    assert tokenizer.decode(tokenizer(documents[0])["input_ids"]) == documents[0]
    assert mean_loss(model, torch.tensor(tokens), context=256) < 0.5 * unigram_entropy(tokens)
