"""Conditions on trials, as in `--where 'decay_factor >= 4 and state = FINISHED'`: read, never executed.

    condition := all ("or" all)*        all := one ("and" one)*
    one       := "not" one | "(" condition ")" | KEY OP VALUE        OP: = == != < <= > >=

VALUE is a number, a word, or a text in quotes; `none` is a value that is not there. A key of other characters than
words have stands in backticks.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tuner.analysis.keys import Value
from tuner.errors import UserError

Row = Mapping[str, Value]
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_EQUALITY = ("=", "==", "!=")
_TOKEN = re.compile(r"""\s*(?:(<=|>=|==|!=|=|<|>|[()])|`([^`]+)`|"([^"]*)"|'([^']*)'|([^\s()<>=!`"']+))""")
_OTHER_NAMES = {"finished": "complete", "failed": "fail", "killed": "fail", "true": "1", "false": "0"}
"""MLflow's names of states, and flags in words."""


@dataclass(frozen=True, slots=True)
class Where:
    """A condition: the keys that it asks for, and whether a row meets it."""

    keys: tuple[str, ...]
    holds: Callable[[Row], bool]


def parse_where(text: str) -> Where:
    """Return the condition that a text describes.

    Raises:
        UserError: it is none; the message says where.
    """
    parser = _Parser(text)
    holds = parser.condition()
    if parser.word is not None:
        raise parser.error("`and`, `or` or the end")
    return Where(tuple(parser.keys), holds)


class _Parser:
    """Goes through the text once; `word` is the next token, `plain` whether it stood there without quotes."""

    def __init__(self, text: str) -> None:
        self._text, self._position = text, 0
        self.keys: list[str] = []
        self.word: str | None = None
        self.plain = False
        self._take()

    def condition(self) -> Callable[[Row], bool]:
        """Read a condition."""
        parts = [self._all()]
        while self._is("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else lambda row: any(part(row) for part in parts)

    def error(self, wanted: str) -> UserError:
        """Return the error that something else was wanted here."""
        found = "the end" if self.word is None else repr(self.word)
        return UserError(
            f"`--where` must be like 'decay_factor>=4 and state=FINISHED', but in {self._text!r} {found} stands where "
            f"{wanted} should"
        )

    def _all(self) -> Callable[[Row], bool]:
        parts = [self._one()]
        while self._is("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda row: all(part(row) for part in parts)

    def _one(self) -> Callable[[Row], bool]:
        if self._is("not"):
            inner = self._one()
            return lambda row: not inner(row)
        if self._is("("):
            inner = self.condition()
            if not self._is(")"):
                raise self.error("`)`")
            return inner
        if self.word is None or (self.plain and self.word in (*_OPERATORS, "(", ")")):
            raise self.error("a key")
        key = self.word
        self._take()
        if self.word not in _OPERATORS or not self.plain:
            raise self.error("one of = != < <= > >=")
        sign = self.word
        self._take()
        if self.word is None or (self.plain and self.word in (*_OPERATORS, "(", ")")):
            raise self.error("a value")
        holds = self._comparison(key, sign, self.word)
        self.keys.append(key)
        self._take()
        return holds

    def _comparison(self, key: str, sign: str, text: str) -> Callable[[Row], bool]:
        number = _number(text)
        if number is None and sign not in _EQUALITY:
            raise self.error(f"a number, which {sign} compares with,")
        compare, equal = _OPERATORS[sign], sign != "!="

        def holds(row: Row) -> bool:
            value = row.get(key)
            found = _number(value)
            if number is not None and found is not None:
                return compare(found, number)
            if sign not in _EQUALITY:
                return False
            same = value is None if text.lower() == "none" else value is not None and _plain(str(value)) == _plain(text)
            return same == equal

        return holds

    def _is(self, word: str) -> bool:
        """Take the next token if it is this word."""
        if not self.plain or self.word is None or self.word.lower() != word:
            return False
        self._take()
        return True

    def _take(self) -> None:
        rest = self._text[self._position :]
        match = _TOKEN.match(rest)
        if match is None:
            self.word, self.plain = (rest.strip() or None), False
            if self.word is not None:
                raise self.error("something else")
            return
        self._position += match.end()
        sign, *quoted, bare = match.groups()
        self.plain = sign is not None or bare is not None
        self.word = next(group for group in (sign, *quoted, bare) if group is not None)


def _number(value: Value) -> float | None:
    try:
        return None if value is None else float(_OTHER_NAMES.get(str(value).lower(), value))
    except ValueError:
        return None


def _plain(text: str) -> str:
    return _OTHER_NAMES.get(text.lower(), text.lower())
