"""A tokenizer as one small interface, and documents and chats by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from peelaudit.calibration.arrays import Tokens
from peelaudit.calibration.bounded import Child, Limits
from peelaudit.calibration.rows import Chat, Rendered
from peelaudit.errors import CalibrationError
from peelaudit.escape import printable

__all__ = ["Encoder", "encode_document", "render_chats", "served", "tokenizer_errors"]

_CHARS_PER_TOKEN = 8
_MIN_PIECE = 4096
_UNRENDERED = "has a chat template that can't render the chat"
_UNENCODED = "can't encode the calibration text"
_LOAD, _ENCODE, _RENDER = "load", "encode", "render"
LIMITS = Limits()
"""What a tokenizer may take."""
MOST_SPECIAL = 64
"""Tokens around a document, at most: real tokenizers have three."""
LOADING = 30.0
"""CPU seconds that a tokenizer may take to be loaded: of 262,144 words and inside a GGUF file it takes several."""


@dataclass(frozen=True, slots=True)
class Encoder:
    """A tokenizer. `encode` gives a text's ids without special tokens, which are `prefix` and `suffix`.

    `prefix` is what stands before a document, `suffix` after a whole one (see `_special_tokens`). `render` makes a text
    of a chat by the tokenizer's template; None where it has none.
    """

    name: str
    encode: Callable[[str], list[int]]
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    render: Callable[[Chat], str] | None = None


def render_chats(encoder: Encoder | None, chats: Sequence[Chat]) -> list[Rendered]:
    """Chats as the tokenizer's template writes them, with all of its special tokens.

    Raises:
        CalibrationError: the tokenizer has no template, or the template doesn't take a chat, or no end.
    """
    if not chats:
        return []
    if encoder is None or encoder.render is None:
        advice = "name a tokenizer that has one with --tokenizer, or give the text itself"
        whose = "there is" if encoder is None else f"{encoder.name} has"
        raise CalibrationError(f"{chats[0].where}: a chat needs a chat template, and {whose} none; {advice}")
    found = []
    for chat in chats:
        with tokenizer_errors(chat.where, _UNRENDERED):
            found.append(Rendered(encoder.render(chat)))
    return found


def served(name: str, load: Callable[[], Encoder]) -> Encoder:
    """The tokenizer that `load` makes, loaded and used in a child process.

    Raises:
        CalibrationError: it can't be loaded, or takes too much.
    """
    child = Child(_Server(load), LIMITS)
    with tokenizer_errors(name, "can't be loaded"):
        found = child.ask([_LOAD, None], computing=LOADING)

    def render(chat: Chat) -> str:
        return str(child.ask([_RENDER, [chat.messages, chat.tools, chat.where]]))

    def encode(text: str) -> list[int]:
        ids: list[int] = child.ask([_ENCODE, text])
        return ids

    prefix, suffix = tuple(found["prefix"]), tuple(found["suffix"])
    if len(prefix) + len(suffix) > MOST_SPECIAL:
        raise CalibrationError(
            f"{name}: the tokenizer puts {len(prefix)} tokens before a document and {len(suffix)} behind it, over "
            f"{MOST_SPECIAL} in all"
        )
    return Encoder(name, encode, prefix, suffix, render if found["renders"] else None)


class _Server:
    """What the child does."""

    def __init__(self, load: Callable[[], Encoder]) -> None:
        self._load, self._encoder = load, Encoder("", lambda _: [])

    def __call__(self, request: tuple[str, Any]) -> object:
        what, value = request
        if what == _LOAD:
            made = self._encoder = self._load()
            return {"prefix": made.prefix, "suffix": made.suffix, "renders": made.render is not None}
        if what == _ENCODE:
            with tokenizer_errors(self._encoder.name, _UNENCODED):
                return self._encoder.encode(value)
        messages, tools, where = value
        with tokenizer_errors(where, _UNRENDERED):
            if (render := self._encoder.render) is None:
                raise CalibrationError(f"{where}: the tokenizer has no chat template")
            text = render(Chat(tuple(messages), tuple(tools), where))
            text.encode("utf-8")
            return text


def encode_document(encoder: Encoder, text: str, *, limit: int, vocabulary: int, whole: bool = True) -> Tokens:
    """The first `limit` ids of a document, or all of them where there are fewer. [tokens], int64.

    The text is encoded in pieces that end at a line's end, and none beyond the limit: the ids are those of one encoding
    of the whole, but for a token or two at a joint. `whole` is False for a part of an undivided text, which has neither
    prefix nor suffix.

    Raises:
        CalibrationError: an id isn't in the model's vocabulary, or the tokenizer failed.
    """
    ids = list(encoder.prefix) if whole else []
    for piece in _pieces(text, max(_MIN_PIECE, _CHARS_PER_TOKEN * limit)):
        if len(ids) >= limit:
            break
        with tokenizer_errors(encoder.name, _UNENCODED):
            ids += encoder.encode(piece)
    else:
        ids += encoder.suffix if whole else ()
    tokens = np.asarray(ids[:limit], dtype=np.int64)
    if tokens.size and (tokens.max() >= vocabulary or tokens.min() < 0):
        wrong = next(int(token) for token in tokens if not 0 <= token < vocabulary)
        why = f"the tokenizer gives id {wrong}, and the model's vocabulary is {vocabulary}: they don't belong together"
        raise CalibrationError(f"{encoder.name}: {why}")
    return tokens


def _pieces(text: str, size: int) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = start + size
        if end < len(text):
            end = text.find("\n", end, end + size) + 1 or text.find(" ", end, end + size) or end
            end = max(end, start + size)
        yield text[start:end]
        start = end


@contextmanager
def tokenizer_errors(name: str, what: str) -> Iterator[None]:
    """Turn what a tokenizer raises into a CalibrationError, without a hub's advice.

    The Rust library panics on some damaged files, and a PanicException is no Exception: it is told by its name alone,
    since the class can't be imported.
    """
    try:
        yield
    except CalibrationError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        first = printable((str(error).strip() or type(error).__name__).split("\n")[0]).rstrip(": ")[:160]
        advice = "huggingface.co" in first or "trust_remote_code" in first
        raise CalibrationError(f"{name}: the tokenizer {what}{'' if advice else f': {first}'}") from error
