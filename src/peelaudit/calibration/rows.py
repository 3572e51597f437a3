"""What a row of records holds: a text, or a chat, which the tokenizer's template makes a text of.

    {"text": "…"}                                                       a text, under `--field`
    {"messages": [{"role": "user", "content": "…"}, …]}                 a chat
    {"conversations": [{"from": "human", "value": "…"}, …]}             the same, as ShareGPT has it

A chat may have `tools` beside it, and in ShareGPT's form `system`, which is what its first message says.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from peelaudit.escape import printable

__all__ = ["DEFAULT_FIELD", "Chat", "Rendered", "Row", "advice_on", "columns_of", "row_of"]

DEFAULT_FIELD = "text"
_CHAT_KEYS = ("messages", "conversations")
"""Where a chat is looked for, if there is no text and no other field was named."""
_BESIDE = ("tools", "system")
_PAIRS = (("instruction", "output"), ("instruction", "response"), ("prompt", "completion"), ("prompt", "response"))
"""What is asked and what is answered, as Alpaca and others have it."""
_SPEAKERS = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""The roles of those whom ShareGPT's form has speak."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation. `messages` and `tools` are what a chat template is given; `where` is its file and row."""

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...]
    where: str

    def key(self) -> str:
        """The same for equal conversations alone."""
        return json.dumps([self.messages, self.tools], sort_keys=True, default=str)


class Rendered(str):
    """A text that has all of its special tokens in it, as a chat template puts them."""

    __slots__ = ()


Row = str | Chat


def columns_of(names: Collection[str], field: str) -> tuple[str, ...]:
    """Which of these columns a row is made of, the text's or the chat's first; none if it isn't there."""
    keys = (field, *_CHAT_KEYS) if field == DEFAULT_FIELD else (field,)
    key = next((key for key in keys if key in names), None)
    return () if key is None else (key, *(beside for beside in _BESIDE if beside in names and beside != key))


def advice_on(names: Collection[str]) -> str:
    """What to do where none of these columns is a text or a chat."""
    pair = next((pair for pair in _PAIRS if {*pair} <= {*names}), None)
    if pair is None:
        return "name the text's with --field"
    return (
        f"how a model was told {pair[0]} and {pair[1]} in training isn't known: make a text of each row, as it was, or"
        " a chat (messages)"
    )


def row_of(record: Mapping[str, Any], field: str, where: str) -> Row | None:
    """What a row holds; None where that is nothing but white space, or no message.

    Args:
        record: the row.
        field: the key of its text or chat.
        where: its file and number.

    Raises:
        ValueError: there is no such key, or something else under it.
    """
    columns = columns_of(record, field)
    if not columns:
        keys = ", ".join(printable(str(key))[:40] for key in list(record)[:8]) or "none"
        raise ValueError(f"there is no key {field!r} (keys: {keys}); {advice_on(record)}")
    value = record[columns[0]]
    if isinstance(value, str):
        value.encode("utf-8")
        return value if value.strip() else None
    if not isinstance(value, list | dict):
        raise ValueError(f"the value of {columns[0]!r} is {type(value).__name__}, not a string")
    messages = [_message(number, message) for number, message in enumerate(_listed(value), 1)]
    if not messages:
        return None
    system = record.get("system")
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    return Chat(tuple(messages), _tools(record.get("tools")), where)


def _listed(value: list[Any] | dict[str, Any]) -> list[Any]:
    """The messages. Arrow may have them the other way round: one list of roles, and one of contents."""
    if isinstance(value, list):
        return value
    if not value or not all(isinstance(column, list) for column in value.values()):
        raise ValueError("expected a text or a list of messages, found an object")
    if len({len(column) for column in value.values()}) > 1:
        raise ValueError("the lists of what the messages have are not of one length")
    return [dict(zip(value, items, strict=True)) for items in zip(*value.values(), strict=True)]


def _message(number: int, message: object) -> dict[str, Any]:
    """A message as templates expect it: `role`, `content` and whatever else it has."""
    if not isinstance(message, dict):
        raise ValueError(f"message {number} is {type(message).__name__}, not an object with role and content")
    given = {key: value for key, value in message.items() if value is not None}
    shared = "from" in given and "role" not in given
    name, said = ("from", "value") if shared else ("role", "content")
    role = given.pop(name, None)
    if not isinstance(role, str) or not role:
        raise ValueError(f"message {number} has no {name}: a message has role and content, or from and value")
    if shared and role.lower() not in _SPEAKERS:
        raise ValueError(f"message {number} is from {role[:40]!r}, not one of {', '.join(_SPEAKERS)}")
    content = _said(given.pop(said, None))
    if content is None and not given.get("tool_calls"):
        raise ValueError(f"message {number} has no {said} that is a text")
    (content or "").encode("utf-8")
    return {**given, "role": _SPEAKERS[role.lower()] if shared else role, "content": content or ""}


def _said(content: object) -> str | None:
    """A content's text, which may be in parts; None where it is anything else."""
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    whole = [text for text in texts if isinstance(text, str)]
    return "".join(whole) if len(whole) == len(texts) else None


def _tools(tools: object) -> tuple[Mapping[str, Any], ...]:
    """What the chat may call: a list of objects, or the JSON of one."""
    if isinstance(tools, str):
        tools = json.loads(tools) if tools.strip() else None
    if tools is None:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError("the value of 'tools' is no list of objects")
    return tuple(tools)
