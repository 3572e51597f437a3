"""Names and numbers as text that fits its column. No rich here: exports use it too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peelaudit.records import Estimate, Verdict

__all__ = [
    "VERDICT_WORDS",
    "abbreviate",
    "count",
    "encodable",
    "fitting",
    "flow",
    "interval",
    "number",
    "signed",
    "size",
    "targets_text",
    "verdict_text",
]

VERDICT_WORDS: dict[Verdict, tuple[str, str]] = {
    Verdict.RED: ("✗", "ineffective"),
    Verdict.YELLOW: ("!", "can do better"),
    Verdict.GREEN: ("✓", "effective"),
    Verdict.GREY: ("?", "inconclusive"),
}
"""The sign and the word beside each colour."""

_ASCII = str.maketrans(
    {"✗": "x", "✓": "+", "×": "x", "…": "~", "→": ">", "·": "-", "–": "-", "—": "-", "─": "-", "−": "-", "≤": "<"}
    | {"█": "#", "━": "=", "‘": "'", "’": "'", "“": '"', "”": '"'}
)


def encodable(text: str, encoding: str) -> str:
    """`text` in characters that `encoding` has, column for column."""
    try:
        text.encode(encoding)
    except LookupError:
        return text.translate(_ASCII).encode("ascii", "replace").decode("ascii")
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def number(value: float) -> str:
    """Six characters at most: 3.962, 123.4, 2e+05."""
    if abs(value) < 99.9995:
        return f"{value:.3f}"
    return f"{value:.1f}" if abs(value) < 999.95 else f"{value:.0e}"


def signed(value: float) -> str:
    """`number` with its sign, for differences: +0.123."""
    text = number(value)
    return text if text.startswith("-") else "+" + text


def interval(estimate: Estimate, *, sign: bool = False) -> str:
    """The 95 % interval: 3.901..4.022, or with signs."""
    form = signed if sign else number
    return f"{form(estimate.low)}..{form(estimate.high)}"


def count(value: int) -> str:
    """A whole number with its thousands apart: 16,384."""
    return f"{value:,}"


def size(value: float, unit: str) -> str:
    """A large number in few characters: 1.06 GB; `135 M` with an empty unit."""
    prefix = ""
    for larger in ("k", "M", "G", "T"):
        if value < 999.5:
            break
        value, prefix = value / 1000, larger
    return f"{value:.3g} {prefix}{unit}".rstrip()


def verdict_text(verdict: Verdict) -> str:
    """A verdict for readers with and without colours: red ✗ ineffective."""
    sign, word = VERDICT_WORDS[verdict]
    return f"{verdict} {sign} {word}"


def abbreviate(text: str, width: int) -> str:
    """`text` in `width` characters at most, its middle left out."""
    if len(text) <= width:
        return text
    head = (width - 1) // 2
    return text[: width - 1 - head] + "…" + text[len(text) - head :]


def targets_text(targets: Sequence[int], width: int) -> str:
    """A schedule's targets in runs: `1–22, 30×8` fits blocks 1 to 22 to their own states and the last 8 to state 30."""
    runs = _runs(targets)
    text = ", ".join(runs)
    if len(text) <= width:
        return text
    head, tail = 1, 1
    while head + tail < len(runs):
        grow_tail = tail < head
        trial = [*runs[: head + (not grow_tail)], "…", *runs[len(runs) - tail - grow_tail :]]
        if len(", ".join(trial)) > width:
            break
        head, tail = head + (not grow_tail), tail + grow_tail
    return abbreviate(", ".join([*runs[:head], "…", *runs[len(runs) - tail :]]), width)


def _runs(targets: Sequence[int]) -> list[str]:
    runs: list[str] = []
    start = 0
    while start < len(targets):
        step = 1 if start + 1 < len(targets) and targets[start + 1] == targets[start] + 1 else 0
        end = start
        while end + 1 < len(targets) and targets[end + 1] == targets[end] + step:
            end += 1
        length, first = end - start + 1, targets[start]
        if step and end + 1 < len(targets) and targets[end + 1] == targets[end]:
            # The last of a rising run is the first of a level one: 1–22, 30×8 rather than 1–30, 30×7.
            end, length = end - 1, length - 1
        if length == 1:
            runs.append(str(first))
        else:
            runs.append(f"{first}–{targets[end]}" if step else f"{first}×{length}")
        start = end + 1
    return runs


def fitting(items: Sequence[str], width: int) -> str:
    """Items with commas between, in `width` columns: of too many the first."""
    text = ", ".join(items)
    return text if len(text) <= width else f"{flow(items, width - 3, ', ')[0]}, …"


def flow(items: Iterable[str], width: int, separator: str = " · ") -> list[str]:
    """Items joined into lines of `width` columns, never broken inside."""
    lines: list[str] = []
    for item in items:
        if lines and len(lines[-1]) + len(separator) + len(item) <= width:
            lines[-1] += separator + item
        else:
            lines.append(item)
    return lines
