"""What README and docs/ name is there: commands, flags, targets, formats, exit codes, files, headings."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from peelaudit import errors
from peelaudit.cli.app import app
from peelaudit.reports.formats import Format
from tests.places import ROOT

README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))
SOURCE = ROOT / "src/peelaudit"
GROUP: Any = get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}: {self.text[:40]!r}"


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def spans(page: Path) -> list[str]:
    """What stands in backticks, on one line each."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(page))]


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all pages in one of these languages; in any, if none is given."""
    found = [Block(page, language, text) for page in PAGES for language, text in FENCE.findall(page.read_text("utf-8"))]
    return [block for block in found if block.language in languages or not languages]


def shell_lines(block: Block) -> Iterator[str]:
    """The lines that a reader types: all of a script, those behind `$` of a session."""
    for line in block.text.replace("\\\n", " ").splitlines():
        if block.language != "console":
            yield line
        elif line.startswith("$ "):
            yield line.removeprefix("$ ")


def invocations(line: str) -> Iterator[list[str]]:
    """The arguments of each `peelaudit` in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.wordchars += "=%*[],:$@"
    words: list[str] | None = None
    for word in lexer:
        if words is not None and not set(word) <= set(";&|<>()"):
            words.append(word)
            continue
        if words is not None:
            yield words
        words = [] if Path(word).name == "peelaudit" else None
    if words is not None:
        yield words


def all_invocations() -> list[tuple[str, ...]]:
    lines = [line for block in blocks("console", "bash", "yaml") for line in shell_lines(block) if "peelaudit " in line]
    lines += [span for page in PAGES for span in spans(page) if re.match(r"(\S+/)?peelaudit \w+ ", span)]
    return sorted({tuple(words) for line in lines for words in invocations(line) if words})


@cache
def flags() -> frozenset[str]:
    """Every command's, and those before any."""
    parameters = [parameter for command in (GROUP, *COMMANDS.values()) for parameter in command.params]
    return frozenset({"--help"}.union(*((*parameter.opts, *parameter.secondary_opts) for parameter in parameters)))


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_every_page_is_reached_from_the_readme() -> None:
    reached, new = {README}, [README]
    while new:
        page = new.pop()
        linked = {(page.parent / path).resolve() for path in re.findall(r"\]\(([^)#:]+\.md)", page.read_text("utf-8"))}
        new += linked - reached
        reached |= linked
    assert set(PAGES) <= reached


def test_a_flag_that_is_named_is_one() -> None:
    named = {flag for page in PAGES for span in spans(page) for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span)}
    assert named
    assert named <= flags(), named - flags()


@pytest.mark.parametrize("words", all_invocations(), ids=" ".join)
def test_a_command_line_parses(words: tuple[str, ...]) -> None:
    command, *arguments = words
    assert command in COMMANDS
    if arguments != ["--help"]:
        COMMANDS[command].make_context(command, arguments)


def test_a_command_line_with_a_foreign_flag_does_not_parse() -> None:
    ((command, *arguments),) = invocations("peelaudit compare base.json new.json --repair cheap  # not compare's")
    with pytest.raises(Exception, match="No such option"):
        COMMANDS[command].make_context(command, arguments)


def test_all_commands_are_in_the_readmes_table() -> None:
    assert set(re.findall(r"^\| `peelaudit ([a-z]+)", prose(README), re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_that_is_named_is_one(page: Path) -> None:
    assert {match[1] for span in spans(page) if (match := re.match(r"peelaudit ([a-z]+)", span))} <= set(COMMANDS)


def test_a_make_target_that_is_named_is_one() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for block in blocks("console", "bash", "yaml") for line in shell_lines(block)]
    lines += [span for page in PAGES for span in spans(page)]
    named = {match[1] for line in lines if (match := re.match(r"(?:- (?:run: )?)?make ([a-z][a-z-]+)", line.strip()))}
    assert named == targets, named ^ targets


def test_every_format_has_its_row() -> None:
    text = prose(ROOT / "docs/reading-a-report.md")
    for form in Format:
        row = re.search(rf"^\| `{form}` \| (.*?) \|", text, re.MULTILINE)
        assert row, form
        assert set(form.suffixes[:1]) <= set(re.findall(r"\.\w+", row[1]))


def test_every_exit_code_has_its_row() -> None:
    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    assert len(codes) > 3
    assert codes <= set(map(int, re.findall(r"^\| (\d+) \|", prose(README), re.MULTILINE)))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        assert there.is_file(), target
        assert not anchor or anchor in map(slug, headings(there)), target


def test_every_picture_is_shown() -> None:
    shown = {
        (page.parent / path).resolve() for page in PAGES for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", prose(page))
    }
    assert shown == set((ROOT / "docs/pictures").iterdir())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_path_that_is_named_is_there(page: Path) -> None:
    """From the repository's root, or, in the page on architecture, from the package."""
    for span in spans(page):
        path = Path(span)
        if re.fullmatch(r"[\w-]+(/[\w.-]+)*/|[\w-]+(/[\w-]+)*\.[a-z]+", span) is None:
            continue
        if path.parts[0] in {"src", "tests", "bench", "fixtures", "docs"}:
            assert (ROOT / path).exists(), span
        elif page.name == "architecture.md":
            assert (SOURCE / path).exists(), span


def test_what_the_code_cites_of_the_method_is_a_heading_of_it() -> None:
    known = sorted(headings(ROOT / "docs/method.md"), key=len, reverse=True)
    cited = 0
    for path in (*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")):
        text = " ".join(path.read_text(encoding="utf-8").split())
        for after in re.findall(r"docs/method\.md, ([A-Z].{0,40})", text):
            assert any(after.startswith(heading) for heading in known), f"{path}: {after}"
            cited += 1
    assert cited


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_toml_parses(block: Block) -> None:
    assert tomllib.loads(block.text)


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_parses(block: Block) -> None:
    assert pytest.importorskip("yaml").safe_load(block.text)


def test_every_block_says_its_language() -> None:
    assert {block.language for block in blocks()} <= {"text", "console", "bash", "python", "toml", "yaml"}
    for page in PAGES:
        assert "```" not in prose(page), page
