"""Tokenizers read from local files alone: Hugging Face's, sentencepiece's, tiktoken's and tables of characters."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from peelaudit import json_text
from peelaudit.calibration.arrays import GPT2_VOCABULARIES
from peelaudit.calibration.bounded import Child
from peelaudit.calibration.character_table import is_character_table, read_character_table
from peelaudit.calibration.encoder import LIMITS, LOADING, Encoder, served, tokenizer_errors
from peelaudit.calibration.rows import Chat
from peelaudit.calibration.vocabulary_files import check_convertible, read_vocabulary, uncached, vocabulary_file
from peelaudit.errors import CalibrationError
from peelaudit.escape import printable
from peelaudit.filenames import TOKENIZER_FILES, gguf_parts
from peelaudit.plain_files import read_plain

__all__ = ["check_tokenizer", "encoder_of", "find_tokenizer", "write_tokenizer"]

_CONFIG = "tokenizer_config.json"
_MOST_BYTES = 32 << 20
_TABLES = ("meta.pkl", "meta.json")
_OTHERS = tuple(name for name in TOKENIZER_FILES if name not in _TABLES)
_SUFFIXES = (".pkl", ".model", ".tiktoken", ".json")
_DAY = {"d": "26", "m": "07", "Y": "2024", "y": "24", "b": "Jul", "B": "July", "a": "Fri", "A": "Friday"}
"""The day that Llama's templates fall back on where they aren't told one, by the letters that ask for it."""
_DAY_FILTERS = "".join(f" | replace('%{letter}', '{word}')" for letter, word in _DAY.items())
_TEMPLATE_DAY = f"{{% macro strftime_now(form) %}}{{{{ form{_DAY_FILTERS} }}}}{{% endmacro %}}{{{{ '' }}}}"
"""What has a chat template that asks for the date find that day."""


def find_tokenizer(given: str | None, checkpoint: Path, vocabulary: int, *, config: str | None = None) -> Encoder:
    """The tokenizer that was given, else the one inside or beside the checkpoint, else the one beside the config.json
    (or in its directory) that was given for the checkpoint.

    Raises:
        CalibrationError: there is none, or it can't be loaded.
    """
    if given is not None:
        return _load(Path(given))
    if checkpoint.suffix.lower() == ".gguf" and checkpoint.is_file():
        return _from_directory(checkpoint.parent, gguf_file=gguf_parts(checkpoint.name)[0])
    folder = _folder(checkpoint)
    if _has_tokenizer(folder):
        return _load(folder)
    if config is not None and _has_tokenizer(beside := _folder(Path(config))):
        return _load(beside)
    hint = ""
    if vocabulary in GPT2_VOCABULARIES:
        hint = f" (a vocabulary of {vocabulary} is probably GPT-2's: the directory of a GPT-2 tokenizer will do)"
    raise CalibrationError(
        f"{printable(str(checkpoint))}: there is no tokenizer with the checkpoint; name one with --tokenizer{hint}, or "
        "give token ids as --data, a .bin or .npy file, which need none"
    )


def _folder(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _has_tokenizer(folder: Path) -> bool:
    named = any((folder / name).is_file() for name in TOKENIZER_FILES)
    return named or vocabulary_file(folder) is not None


def _is_configured(path: Path) -> bool:
    """Whether a file is one of those that a tokenizer_config.json beside it says how to read."""
    return path.name in _OTHERS and (path.parent / _CONFIG).is_file()


def check_tokenizer(path: Path) -> None:
    """Raise CalibrationError where a tokenizer isn't there, or is of no kind that can be loaded."""
    shown = printable(str(path))
    if path.is_dir():
        if not _has_tokenizer(path):
            raise CalibrationError(f"{shown}: the directory holds no tokenizer ({', '.join(TOKENIZER_FILES)})")
    elif not path.is_file():
        raise CalibrationError(f"{shown}: there is no such tokenizer file or directory")
    elif path.suffix not in _SUFFIXES and not _is_configured(path):
        files = "a tokenizer.json, a .model or .tiktoken file, or a table of characters (.pkl, .json)"
        raise CalibrationError(f"{shown}: a tokenizer is a directory, {files}")


def _load(path: Path) -> Encoder:
    check_tokenizer(path)
    if path.is_dir() or _is_configured(path):
        return _from_folder(path if path.is_dir() else path.parent)
    match path.suffix:
        case ".pkl":
            return _from_characters(path)
        case ".json":
            return _from_characters(path) if is_character_table(path) else _from_json(path)
        case _:
            return _from_vocabulary(path)


def _from_folder(folder: Path) -> Encoder:
    """A directory's: a tokenizer.json, else a file of pieces, else characters, else what transformers makes of it."""
    configured = (folder / _CONFIG).is_file()
    if (serialised := folder / "tokenizer.json").is_file():
        return _from_directory(folder) if configured else _from_json(serialised)
    if (vocabulary := vocabulary_file(folder)) is not None:
        if not configured:
            return _from_vocabulary(vocabulary)
        check_convertible(vocabulary)
        return _from_directory(folder)
    table = _characters(folder, configured=configured)
    return _from_directory(folder) if table is None else _from_characters(table)


def _characters(folder: Path, *, configured: bool) -> Path | None:
    """A table of characters: where there is nothing else, or a vocabulary without the merges that others have."""
    others = [name for name in _OTHERS if (folder / name).is_file()]
    if not others:
        return next(path for name in _TABLES if (path := folder / name).is_file())
    alone = others == ["vocab.json"] and not configured and not (folder / "merges.txt").is_file()
    return folder / "vocab.json" if alone and is_character_table(folder / "vocab.json") else None


def _special_tokens(with_special: list[int], without: list[int], bos: int | None, eos: int | None) -> dict[str, Any]:
    """What stands before and after a document, given the ids of a probe text with and without special tokens.

    What the tokenizer adds of its own accord is taken as it is. If it adds nothing, but its beginning-of-text and its
    end-of-text are one token (GPT-2's `<|endoftext|>`), then that stood between documents in training, and it is put in
    front. Otherwise nothing: the two tokens of a chat model, for instance, have no place around plain text.
    """
    for start in range(len(with_special) - len(without) + 1):
        if with_special[start : start + len(without)] == without and len(with_special) > len(without):
            return {"prefix": tuple(with_special[:start]), "suffix": tuple(with_special[start + len(without) :])}
    return {"prefix": (bos,) if bos is not None and bos == eos else ()}


def _from_directory(folder: Path, gguf_file: str | None = None) -> Encoder:
    import transformers.models.auto.tokenization_auto  # noqa: F401  (once here, not in each child)

    name = printable(str(folder if gguf_file is None else folder / gguf_file))
    return served(name, partial(_read_directory, name, folder, gguf_file))


def _of_transformers(folder: Path, gguf_file: str | None) -> Any:
    from transformers import AutoTokenizer

    options = {"config": _hints(folder)} if gguf_file is None else {"gguf_file": gguf_file}
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False, **options)


def write_tokenizer(gguf: Path, directory: Path) -> None:
    """Write the tokenizer inside a GGUF file into a directory, as transformers has it.

    Raises:
        CalibrationError: it can't be loaded or written, or takes too much.
    """
    name = printable(str(gguf))

    def write(_: object) -> None:
        with tokenizer_errors(name, "can't be written"), uncached():
            _of_transformers(gguf.parent, gguf_parts(gguf.name)[0]).save_pretrained(str(directory))

    child = Child(write, LIMITS)
    try:
        with tokenizer_errors(name, "can't be written"):
            child.ask(None, computing=LOADING)
    finally:
        child.close()


def _read_directory(name: str, folder: Path, gguf_file: str | None) -> Encoder:
    described = gguf_file is not None or (folder / _CONFIG).is_file()
    problem = "can't be loaded" if described else f"can't be loaded without its {_CONFIG}"
    with tokenizer_errors(name, problem), uncached():
        return encoder_of(_of_transformers(folder, gguf_file), name)


def encoder_of(tokenizer: Any, name: str | None = None) -> Encoder:
    """One of transformers' tokenizers.

    Raises:
        CalibrationError: it is none, or can't encode.
    """
    name = name or type(tokenizer).__name__

    def encode(text: str, *, special: bool = False) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    with tokenizer_errors(name, "isn't one of transformers'"):
        bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
        special = _special_tokens(encode("a", special=True), encode("a"), bos, eos)
        return Encoder(name, encode, render=partial(_render, tokenizer) if tokenizer.chat_template else None, **special)


def _hints(folder: Path) -> Any:
    """What transformers asks of a network's configuration for its tokenizer: the family, and a class by name.

    Its own reading of a config.json makes lists as long as that says.
    """
    from transformers import CONFIG_MAPPING, PretrainedConfig

    values: object = {}
    if (path := folder / "config.json").is_file():
        values = json_text.parse(read_plain(path, _MOST_BYTES).decode("utf-8"))
    found = values if isinstance(values, dict) else {}
    family = found.get("model_type")
    config = CONFIG_MAPPING[family]() if isinstance(family, str) and family in CONFIG_MAPPING else PretrainedConfig()
    for name in ("tokenizer_class", "_name_or_path", "model_name"):
        if isinstance(found.get(name), str):
            setattr(config, name, found[name])
    return config


def _render(tokenizer: Any, chat: Chat) -> str:
    """By the tokenizer's template, on the one day: equal settings are to give equal tokens tomorrow."""
    tools = [dict(tool) for tool in chat.tools] or None
    template: str = tokenizer.get_chat_template(tools=tools)
    if "strftime_now" in template:
        template = _TEMPLATE_DAY + template
    messages = [dict(message) for message in chat.messages]
    text: str = tokenizer.apply_chat_template(messages, tools=tools, chat_template=template, tokenize=False)
    return text


def _from_json(path: Path) -> Encoder:
    import tokenizers  # noqa: F401  (once here, not in each child)

    name = printable(str(path))
    return served(name, partial(_read_json, name, path))


def _read_json(name: str, path: Path) -> Encoder:
    from tokenizers import Tokenizer

    with tokenizer_errors(name, "can't be loaded"):
        tokenizer = Tokenizer.from_file(str(path))
        tokenizer.no_truncation()
        tokenizer.no_padding()

        def encode(text: str, *, special: bool = False) -> list[int]:
            ids: list[int] = tokenizer.encode(text, add_special_tokens=special).ids
            return ids

        added = tokenizer.get_added_tokens_decoder().items()
        end = next((token for token, text in added if text.special and text.content == "<|endoftext|>"), None)
        return Encoder(name, encode, **_special_tokens(encode("a", special=True), encode("a"), end, end))


def _from_vocabulary(path: Path) -> Encoder:
    return served(printable(str(path)), partial(read_vocabulary, path))


def _from_characters(path: Path) -> Encoder:
    name = printable(str(path))
    ids = read_character_table(path)

    def encode(text: str) -> list[int]:
        try:
            return [ids[char] for char in text]
        except KeyError as error:
            char: str = error.args[0]
            shown = f"{printable(char)!r} (U+{ord(char):04X})"
            raise CalibrationError(f"{name}: the calibration text holds {shown}, which this tokenizer lacks") from error

    return Encoder(name, encode)
