"""Where things end in HLO text: brackets, strings, comments, shapes, attributes."""

import re

from mallocgame.workloads.hlo.shapes import Shape

_SPACE = re.compile(r"\s*")
_BRACKET = re.compile(r'[()\[\]{}"]')
_STRING_END = re.compile(r'(?:[^"\\]|\\.)*"', re.DOTALL)
_ARRAY = re.compile(r"b\(|[a-z][a-z0-9]*\[[^\]]*\](?:\{[^{}]*\})?")
_WORD = re.compile(r'[^\s,(){}\[\]"]+')
_KEY = re.compile(r"([A-Za-z_][\w\-]*)\s*=\s*")
_COMMENT = re.compile(r'"(?:[^"\\\n]|\\.)*"|/\*.*?\*/|//[^\n]*', re.DOTALL)
_PAIRS = {"(": ")", "[": "]", "{": "}"}
MAX_DEPTH = 200


def without_comments(text: str) -> str:
    """Return the text with comments replaced by blanks; lines keep their numbers."""
    if "/*" not in text and "//" not in text:
        return text
    return _COMMENT.sub(lambda found: found[0] if found[0][0] == '"' else " " + "\n" * found[0].count("\n"), text)


def skip_space(text: str, at: int) -> int:
    """Return the next position that is not white space."""
    found = _SPACE.match(text, at)
    return found.end() if found else at


def closing(text: str, at: int) -> int:
    """Return the position of the bracket that closes the one at ``at``; strings are passed over.

    Raises:
        ValueError: it is never closed, or by one of another kind.
    """
    waiting = []
    while True:
        found = _BRACKET.search(text, at)
        if not found:
            raise ValueError("a bracket is not closed")
        letter, at = found[0], found.end()
        if letter == '"':
            at = _string_end(text, at)
        elif letter in _PAIRS:
            waiting.append(_PAIRS[letter])
            if len(waiting) > MAX_DEPTH:
                raise ValueError(f"brackets nest deeper than {MAX_DEPTH}")
        elif letter != waiting.pop():
            raise ValueError(f"a bracket is closed by {letter!r}")
        elif not waiting:
            return found.start()


def _string_end(text: str, at: int) -> int:
    end = _STRING_END.match(text, at)
    if not end:
        raise ValueError("a string is not closed")
    return end.end()


def shape_at(text: str, at: int, depth: int = 0) -> tuple[Shape, int]:
    """Read the shape at ``at``; return it and where it ends.

    Raises:
        ValueError: there is none.
    """
    if depth > MAX_DEPTH:
        raise ValueError(f"tuples nest deeper than {MAX_DEPTH}")
    if text[at : at + 1] != "(":
        found = _ARRAY.match(text, at)
        if not found:
            raise ValueError("no shape")
        end = found.end() if found[0] != "b(" else closing(text, at + 1) + 1
        return text[at:end], end
    members: list[Shape] = []
    at = skip_space(text, at + 1)
    while text[at : at + 1] != ")":
        member, at = shape_at(text, at, depth + 1)
        members.append(member)
        at = skip_space(text, at)
        if text[at : at + 1] == ",":
            at = skip_space(text, at + 1)
        elif text[at : at + 1] != ")":
            raise ValueError("a tuple shape is not closed")
    return tuple(members), at + 1


def attributes_end(text: str, at: int) -> int:
    """Return where the attributes ``, key=value, …`` that begin at ``at`` end; they may go over several lines.

    Raises:
        ValueError: a comma without an attribute, a value that is not closed.
    """
    while True:
        comma = skip_space(text, at)
        if text[comma : comma + 1] != ",":
            return at
        key = _KEY.match(text, skip_space(text, comma + 1))
        if not key:
            raise ValueError("a comma without an attribute")
        at = value_end(text, key.end())


def value_end(text: str, at: int) -> int:
    """Return where an attribute's value ends: a word, a string, something in brackets, or these one after another."""
    start = at
    while True:
        letter = text[at : at + 1]
        if letter in _PAIRS:
            at = closing(text, at) + 1
        elif letter == '"':
            at = _string_end(text, at + 1)
        else:
            word = _WORD.match(text, at)
            if not word and at > start and text[at : at + 2] == " {" and text[at - 1] == "]":  # mesh['a'=4] {'a'}
                at += 1
                continue
            if not word:
                break
            at = word.end()
    if at == start:
        raise ValueError("an attribute without a value")
    return at


def split(text: str) -> list[str]:
    """Return the parts between the commas that stand in no bracket, without blanks around; no empty ones."""
    if not _BRACKET.search(text):
        return [part for part in map(str.strip, text.split(",")) if part]
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        letter = text[at]
        if letter == '"':
            at = _string_end(text, at + 1)
            continue
        depth += (letter in "({[") - (letter in ")}]")
        if letter == "," and depth == 0:
            parts.append(text[start:at].strip())
            start = at + 1
        at += 1
    parts.append(text[start:].strip())
    return [part for part in parts if part]
