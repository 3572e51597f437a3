import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from peelaudit.calibration.bounded import Limits
from peelaudit.calibration.encoder import render_chats
from peelaudit.calibration.rows import Chat, row_of
from peelaudit.calibration.tokenization import find_tokenizer
from peelaudit.errors import CalibrationError
from tests.calibration.files import ROLES, as_sharegpt, by_columns, chat_tokenizer, chats, in_parts
from tests.calibration.support import CHARACTERS, load, refusal


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_a_chat_is_what_the_tokenizers_own_template_makes_of_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder, data = chat_tokenizer(tmp_path), write(tmp_path / "a.jsonl", [{"messages": chat} for chat in chats()])
    calibration = load(tmp_path, data, tokenizer=str(folder), seq_len=64)
    rows = {tuple(row) for split in (calibration.fit, calibration.held_out) for row in split.tokens.tolist()}
    own: Any = AutoTokenizer.from_pretrained(str(folder))
    theirs = {tuple(own.apply_chat_template(chat)["input_ids"][:64]) for chat in chats()}
    assert len(rows) > 20
    assert rows <= theirs
    assert calibration.info.documents == 40


@pytest.mark.parametrize(
    ("key", "change"),
    [("conversations", as_sharegpt), ("conversations", list), ("messages", in_parts), ("messages", by_columns)],
)
def test_every_form_of_a_chat_gives_the_same_tokens(tmp_path: Path, key: str, change: Any) -> None:
    folder = str(chat_tokenizer(tmp_path))
    plain = load(tmp_path, write(tmp_path / "a.jsonl", [{"messages": one} for one in chats()]), tokenizer=folder)
    other = load(tmp_path, write(tmp_path / "b.jsonl", [{key: change(one)} for one in chats()]), tokenizer=folder)
    assert other.info.tokens_sha256 == plain.info.tokens_sha256


def test_a_list_of_chats_gives_the_same_tokens_as_lines(tmp_path: Path) -> None:
    folder, rows = str(chat_tokenizer(tmp_path)), [{"conversations": as_sharegpt(one)} for one in chats()]
    (listed := tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    lines = load(tmp_path, write(tmp_path / "a.jsonl", rows), tokenizer=folder)
    assert load(tmp_path, listed, tokenizer=folder).info.tokens_sha256 == lines.info.tokens_sha256


def test_a_text_goes_before_a_chat_and_a_named_field_before_both(tmp_path: Path) -> None:
    record = {"text": "a text", "messages": chats()[0], "dialog": chats()[1]}
    assert row_of(record, "text", "") == "a text"
    for field, number in (("messages", 0), ("dialog", 1)):
        found = row_of(record, field, "here")
        assert found == Chat(tuple(chats()[number]), (), "here")
    with pytest.raises(ValueError, match="there is no key 'body'"):
        row_of(record, "body", "")


def test_a_system_beside_and_tools_are_given_to_the_template(tmp_path: Path) -> None:
    template = "{{ tools | length }}{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}"
    encoder = find_tokenizer(str(chat_tokenizer(tmp_path, template)), tmp_path, 128)

    def shown(record: Mapping[str, Any]) -> str:
        chat = row_of(record, "text", "")
        assert isinstance(chat, Chat)
        return str(*render_chats(encoder, [chat]))

    record = {"conversations": as_sharegpt(chats()[0][:1]), "system": "be kind", "tools": '[{"name": "clock"}]'}
    assert shown(record) == "1[system:be kind][user:what is number 0, and why ]"
    record["conversations"] = [{"from": "system", "value": "be brief"}, {"from": "human", "value": "why"}]
    assert shown(record) == "1[system:be brief][user:why]"


def test_the_day_that_a_template_asks_for_is_always_the_same(tmp_path: Path) -> None:
    template = "\n{% if strftime_now is defined %}\n{{ strftime_now('%d %b %Y') }}{{ ', ' ~ bos_token }}\n{% endif %}"
    encoder = find_tokenizer(str(chat_tokenizer(tmp_path, template)), tmp_path, 128)
    assert render_chats(encoder, [Chat(({"role": "user", "content": "a"},), (), "")]) == ["\n26 Jul 2024, <s>\n"]


def test_without_a_template_a_chat_is_refused_with_what_to_do(tmp_path: Path) -> None:
    data = write(tmp_path / "a.jsonl", [{"messages": chat} for chat in chats()])
    advice = "name a tokenizer that has one with --tokenizer, or give the text itself"
    folder = chat_tokenizer(tmp_path, None)
    assert refusal(tmp_path, data, tokenizer=str(folder)) == (
        f"{data}, line 1: a chat needs a chat template, and {folder} has none; {advice}"
    )
    assert refusal(tmp_path, data).endswith(advice), "nor has a table of characters"


@pytest.mark.parametrize("template", ["{{ raise_exception('roles must alternate') }}", "{{ 1 / 0 }}", "{% if %}"])
def test_a_template_that_fails_is_told_with_the_row(tmp_path: Path, template: str) -> None:
    data = write(tmp_path / "a.jsonl", [{"messages": chat} for chat in chats()])
    message = refusal(tmp_path, data, tokenizer=str(chat_tokenizer(tmp_path, template)))
    assert f"{data}, line 1: the tokenizer has a chat template that can't render the chat: " in message


@pytest.mark.parametrize(
    ("value", "defect"),
    [
        ([{"content": "a"}], "message 1 has no role: a message has role and content, or from and value"),
        ([{"role": "user", "content": "a"}, {"role": "assistant"}], "message 2 has no content that is a text"),
        ([{"role": "user", "content": 3}], "message 1 has no content that is a text"),
        ([{"role": "", "content": "a"}], "message 1 has no role"),
        ([{"role": ["user"], "content": "a"}], "message 1 has no role"),
        ([{"from": "human"}], "message 1 has no value that is a text"),
        ([{"from": "a stranger\x1b", "value": "a"}], "message 1 is from 'a stranger\\x1b', not one of system, human"),
        (["hello"], "message 1 is str, not an object with role and content"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], "message 1 has no content that is a text"),
        ([{"role": "user", "content": "\ud800"}], "lone surrogate"),
        ({"role": ["user"], "content": ["a", "b"]}, "are not of one length"),
        ({"role": "user", "content": "a"}, "expected a text or a list of messages, found an object"),
        (3, "the value of 'messages' is int, not a string"),
    ],
)
def test_a_chat_that_is_none_is_told_with_its_line(tmp_path: Path, value: object, defect: str) -> None:
    data = write(tmp_path / "a.jsonl", [*({"messages": chat} for chat in chats(3)), {"messages": value}])
    message = refusal(tmp_path, data, tokenizer=str(chat_tokenizer(tmp_path)))
    assert message.startswith(f"{data}, line 4: ")
    assert defect in message


def test_texts_and_chats_in_one_file_are_refused(tmp_path: Path) -> None:
    mixed = [{"messages": chats()[0]}, {"text": "a text"}]
    path = write(tmp_path / "a.jsonl", mixed)
    advice = "keep them in files apart"
    assert refusal(tmp_path, path) == f"{path}, line 2: a text, and the rows before it are chats: {advice}"
    write(path, mixed[::-1])
    assert refusal(tmp_path, path) == f"{path}, line 2: a chat, and the rows before it are texts: {advice}"


def test_chats_and_texts_in_files_apart_are_fed_each_as_it_is(tmp_path: Path) -> None:
    texts = write(tmp_path / "a.jsonl", [{"text": f"text number {number} " * 8} for number in range(40)])
    talks = write(tmp_path / "b.jsonl", [{"messages": chat} for chat in chats()])
    calibration = load(tmp_path, texts, talks, tokenizer=str(chat_tokenizer(tmp_path)), seq_len=64, tokens=4096)
    first = {int(row[0]) for split in (calibration.fit, calibration.held_out) for row in split.tokens}
    assert first == {len(CHARACTERS) + ROLES.index("<|user|>"), len(CHARACTERS) + len(ROLES)}


def test_chats_without_a_message_and_equal_ones_are_left_out(tmp_path: Path) -> None:
    rows = [{"messages": chat} for chat in [*chats(), chats()[0], []]]
    info = load(tmp_path, write(tmp_path / "a.jsonl", rows), tokenizer=str(chat_tokenizer(tmp_path))).info
    assert (info.documents, info.duplicate_documents) == (40, 1)


def test_damaged_tools_are_told() -> None:
    for tools in ("{", '{"a": 1}', [3], 3):
        with pytest.raises((ValueError, CalibrationError)):
            row_of({"messages": chats()[0], "tools": tools}, "text", "")


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "it takes too long"),
        ("{{ 9 ** (9 ** 9) }}", "it takes too long"),
        ("{% for a in range(99999) %}{{ 'a' * 99999 }}{% endfor %}", "MemoryError"),
        ("{{ 'a' * 99999999999999 }}", "MemoryError"),
        ("{{ 'a' * 999999 }}", "it takes too much memory or computing"),
    ],
)
def test_a_template_without_an_end_is_given_up(
    template: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peelaudit.calibration.encoder.LIMITS", Limits(computing=1, memory=1 << 28, length=1 << 16))
    data = write(tmp_path / "a.jsonl", [{"messages": chat} for chat in chats()])
    message = refusal(tmp_path, data, tokenizer=str(chat_tokenizer(tmp_path, template)))
    assert message == f"{data}, line 1: the tokenizer has a chat template that can't render the chat: {why}"
