"""Enough of PromQL's grammar to know which metrics and labels an expression names. Not an evaluator.

Grammar: https://prometheus.io/docs/prometheus/latest/querying/basics/ - vectors, matchers, ranges, operators,
functions, aggregations, vector matching. What it does not know is an error, so that nothing passes unread.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

AGGREGATIONS = frozenset({"sum", "avg", "min", "max", "count", "topk", "bottomk", "quantile", "stddev", "group"})
FUNCTIONS = frozenset(
    {
        "abs",
        "rate",
        "irate",
        "increase",
        "delta",
        "histogram_quantile",
        "max_over_time",
        "min_over_time",
        "avg_over_time",
    }
    | {"sum_over_time", "clamp_min", "clamp_max", "absent", "changes", "resets", "time", "vector", "scalar", "round"}
    | {"label_replace"}
)
MATCHING = frozenset({"on", "ignoring", "group_left", "group_right"})
OPERATORS = frozenset({"and", "or", "unless", "bool", "+", "-", "*", "/", "%", "^", "==", "!=", "<", ">", "<=", ">="})
ALWAYS = frozenset({"instance", "job"})
"""Labels that Prometheus adds to everything it scrapes."""
_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<range>\[[^\]]*\])|(?P<number>\d+\.?\d*(?:e[-+]?\d+)?)
    |(?P<name>[A-Za-z_:][A-Za-z0-9_:]*)|(?P<op>=~|!~|!=|==|<=|>=|[-+*/%^(){},=<>]))""",
    re.VERBOSE,
)


class PromqlError(ValueError):
    """The expression cannot be read."""


@dataclass(frozen=True)
class Query:
    """``matched``: metric -> labels in its braces. ``groups``: labels named by an aggregation or a vector matching,
    each with the metrics they are looked for in. ``kept``: labels the result may have; None: all of its metrics'."""

    matched: list[tuple[str, frozenset[str]]] = field(default_factory=list)
    groups: list[tuple[frozenset[str], frozenset[str]]] = field(default_factory=list)
    kept: frozenset[str] | None = None

    @property
    def metrics(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.matched)

    def problems(self, known: Mapping[str, frozenset[str]]) -> list[str]:
        """What it names that is not there; ``known``: the labels of each metric, by its name on the wire."""
        wrong = [f"there is no metric {name}" for name in sorted(self.metrics) if name not in known]
        for name, labels in self.matched:
            wrong += [f"{name} has no label {one}" for one in sorted(labels - known.get(name, labels) - ALWAYS)]
        for labels, metrics in self.groups:
            there = ALWAYS.union(*(known.get(name, labels) for name in metrics))
            wrong += [f"{' and '.join(sorted(metrics))} have no label {one}" for one in sorted(labels - there)]
        return wrong

    def labels(self, known: Mapping[str, frozenset[str]]) -> frozenset[str]:
        """Labels that a template beside the expression may name."""
        if self.kept is not None:
            return self.kept
        return ALWAYS.union(*(known.get(name, frozenset()) for name in self.metrics))


def parse(text: str) -> Query:
    """Raises `PromqlError`."""
    parser = _Parser(text)
    query = Query()
    kept = parser.expression(query)
    if parser.peek() is not None:
        raise PromqlError(f"{text}: what is {parser.peek()!r}?")
    return Query(query.matched, query.groups, kept)


class _Parser:
    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while text[position:].strip():
            found = _TOKEN.match(text, position)
            if found is None:
                raise PromqlError(f"{text}: cannot read {text[position:]!r}")
            position = found.end()
            self.tokens.append((found.lastgroup or "", found[found.lastgroup or 0]))

    def peek(self) -> str | None:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else None

    def take(self, expected: str | None = None) -> tuple[str, str]:
        if self.at >= len(self.tokens) or (expected is not None and self.peek() != expected):
            raise PromqlError(f"{self.text}: {expected or 'more'} expected, {self.peek()!r} found")
        self.at += 1
        return self.tokens[self.at - 1]

    def expression(self, query: Query) -> frozenset[str] | None:
        """Terms and operators up to a closing bracket or a comma; the labels that are left, None for all."""
        kept: list[frozenset[str] | None] = []
        matching: list[frozenset[str]] = []
        begun = len(query.matched)
        while (token := self.peek()) is not None and token not in (")", ","):
            if token in MATCHING:
                self.take()
                matching.append(self.names())
            elif token in OPERATORS:
                self.take()
            else:
                found, is_vector = self.term(query)
                kept += [found] if is_vector else []
        either = frozenset(name for name, _ in query.matched[begun:])
        query.groups.extend((labels, either) for labels in matching)
        if not kept:
            return None
        return None if None in kept else frozenset().union(*(one for one in kept if one is not None))

    def term(self, query: Query) -> tuple[frozenset[str] | None, bool]:
        """(labels that are left, whether it is a vector)."""
        kind, token = self.take()
        if kind in ("number", "string"):
            return None, False
        if token == "(":
            begun = len(query.matched)
            kept = self.expression(query)
            self.take(")")
            return kept, len(query.matched) > begun
        if kind != "name":
            raise PromqlError(f"{self.text}: {token!r} begins no term")
        if token in AGGREGATIONS:
            return self.aggregation(query), True
        if self.peek() == "(":
            if token not in FUNCTIONS:
                raise PromqlError(f"{self.text}: there is no function {token}")
            return self.arguments(query), True
        self.selector(token, query)
        return None, True

    def aggregation(self, query: Query) -> frozenset[str] | None:
        begun = len(query.matched)
        grouping = self.grouping()
        self.arguments(query)
        grouping = grouping or self.grouping() or ("by", frozenset())
        how, labels = grouping
        query.groups.append((labels, frozenset(name for name, _ in query.matched[begun:])))
        return labels if how == "by" else None

    def grouping(self) -> tuple[str, frozenset[str]] | None:
        if self.peek() not in ("by", "without"):
            return None
        return self.take()[1], self.names()

    def names(self) -> frozenset[str]:
        """A list of labels in brackets; none where there are no brackets (a bare group_left)."""
        found: set[str] = set()
        if self.peek() != "(":
            return frozenset()
        self.take("(")
        while self.peek() != ")":
            kind, token = self.take()
            if kind == "name":
                found.add(token)
        self.take(")")
        return frozenset(found)

    def arguments(self, query: Query) -> frozenset[str] | None:
        self.take("(")
        kept: frozenset[str] | None = None
        while self.peek() != ")":
            begun = len(query.matched)
            found = self.expression(query)
            kept = found if len(query.matched) > begun else kept
            if self.peek() != ")":
                self.take(",")
        self.take(")")
        return kept

    def selector(self, name: str, query: Query) -> None:
        labels: set[str] = set()
        if self.peek() == "{":
            self.take("{")
            while self.peek() != "}":
                kind, token = self.take()
                if kind == "name":
                    labels.add(token)
                    if self.take()[1] not in ("=", "!=", "=~", "!~") or self.take()[0] != "string":
                        raise PromqlError(f"{self.text}: {token} is compared with no text")
            self.take("}")
        if self.at < len(self.tokens) and self.tokens[self.at][0] == "range":
            self.take()
        query.matched.append((name, frozenset(labels)))
