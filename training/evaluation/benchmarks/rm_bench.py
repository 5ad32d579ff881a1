"""RM-Bench (Liu et al. 2024, arXiv 2410.16184): 1,327 prompts, three styles of each response, nine pairs a prompt.

    {"id": 8, "prompt": "...", "chosen": ["concise", "detailed", "detailed with markdown"], "rejected": [... likewise]}

Cell (i, j) is chosen style i against rejected style j. hard: the rejected response is the fancier one (i < j, three
cells), normal: i = j, easy: i > j. A domain's score is the mean of its nine cells, the overall score the mean of the
four domains chat, math, code and safety; hard, normal and easy are means over domains as well. The files
safety-refuse and safety-response are one domain, their prompts pooled, as in the published aggregator.

All nine pairs of a prompt are one row here, so no style can be read twice: the aggregator that came with RM-R1 opened
its third file in place of the second, and its "hard" came out three points too high.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from training.evaluation.benchmarks.base import Benchmark, Block, HubPart, ScoreRule
from training.evaluation.benchmarks.rows import Row
from training.evaluation.items import Item, make_item

DOMAINS = ("chat", "math", "code", "safety")
STYLES = ("concise", "detailed", "markdown")
LEVELS: dict[str, Callable[[int, int], bool]] = {
    "hard": lambda chosen, rejected: chosen < rejected,
    "normal": lambda chosen, rejected: chosen == rejected,
    "easy": lambda chosen, rejected: chosen > rejected,
}
_PLACES = [(i, j) for i in range(len(STYLES)) for j in range(len(STYLES))]


def items(rows: Sequence[Row], seed: int) -> list[Item]:
    return [item for row in rows for item in _nine(row, seed)]


def _nine(row: Row, seed: int) -> list[Item]:
    domain = _domain(row)
    prompt, chosen, rejected = row.prompt("prompt"), _styles(row, "chosen"), _styles(row, "rejected")
    return [
        make_item(f"{row.file}:{row.number}/{i}{j}", prompt, chosen[i], rejected[j], domain, seed, place=_place(i, j))
        for i, j in _PLACES
    ]


def _domain(row: Row) -> str:
    """The domain column of the file with everything in it, else the file's own name."""
    told = row.text("domain") if "domain" in row.data else row.file.partition("_filtered")[0]
    domain = told.partition("-")[0]
    if domain not in DOMAINS:
        raise row.error("domain", f"{told!r} belongs to none of {', '.join(DOMAINS)}")
    return domain


def _styles(row: Row, field: str) -> list[str]:
    texts = row.value(field)
    if not isinstance(texts, list) or len(texts) != len(STYLES):
        raise row.error(field, f"must hold three texts ({', '.join(STYLES)})")
    return [row.as_text(field, text) for text in texts]


def _place(chosen: int, rejected: int) -> str:
    return f"{STYLES[chosen]} over {STYLES[rejected]}"


def rules(cells: Sequence[str]) -> list[ScoreRule]:
    return [
        ScoreRule(
            "overall (mean of four domains)", tuple(_block(domain, lambda i, j: True) for domain in DOMAINS), True
        ),
        *(
            ScoreRule(level, tuple(_block(domain, wanted) for domain in DOMAINS), True)
            for level, wanted in LEVELS.items()
        ),
        *(ScoreRule(domain, (_block(domain, lambda i, j: True),), True) for domain in DOMAINS),
        *(
            ScoreRule(f"{domain}, {level}", (_block(domain, wanted),))
            for domain in DOMAINS
            for level, wanted in LEVELS.items()
        ),
        *(
            ScoreRule(_place(i, j), tuple(Block(domain, (f"{domain}/{_place(i, j)}",)) for domain in DOMAINS))
            for i, j in _PLACES
        ),
    ]


def _block(domain: str, wanted: Callable[[int, int], bool]) -> Block:
    return Block(domain, tuple(f"{domain}/{_place(i, j)}" for i, j in _PLACES if wanted(i, j)))


BENCHMARK = Benchmark(
    name="rm_bench",
    title="RM-Bench",
    paper="arXiv 2410.16184",
    folder="rm_bench",
    files=("total_dataset.json", "*_filtered.json"),
    hub=(HubPart("THU-KEG/RM-Bench", "train", "total_dataset.json"),),
    items=items,
    rules=rules,
)
