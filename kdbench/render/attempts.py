"""The trials behind a row or a teacher, as HTML: their scores in a table, and what made each of them.

Functions and no templates: of these there are as many as a site has records. Every text of others is escaped here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from kdbench.render.parts import th
from kdbench.render.rows import Attempt
from kdbench.render.texts import SELECTION_NAMES, bdi, escape, number, rate

_MIB = 2**20


def scores(attempts: Sequence[Attempt], section: int, by: str) -> Markup:
    """Every trial with its scores, a line an epoch that is selected, in the ``section``, whose heading is ``by``."""
    found = [score for attempt in attempts for _, score in attempt.scores]
    unsure = any("entropy" in score for score in found)
    taught = any(score.get("agreement") is not None for score in found)
    heads = [
        *(th("Seed"), th("Status", number=False), th("Selection", number=False), th("Epoch"), th("Top\u20111", "%")),
        *(th("Top\u20115", "%"), th("NLL", "nats"), th("ECE", "%")),
        *([th("Entropy", "nats")] if unsure else []),
        *([th("Agreement", "with teacher, %"), th("KL", "from teacher, nats")] if taught else []),
        *(th("Minutes", "of training"), th("Date", number=False), th("Record", number=False)),
    ]
    lines = [line for at, each in enumerate(attempts, 1) for line in _lines(each, f"{section}-{at}", unsure, taught)]
    return Markup(
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{escape(by)}">\n'
        f'<table class="trials"><thead><tr>{"".join(heads)}</tr></thead><tbody>\n'
        f"{''.join(lines)}</tbody></table></div>\n"
    )


def _lines(attempt: Attempt, name: str, unsure: bool, taught: bool) -> Iterator[str]:
    record = attempt.record
    cost = record["cost"] or {}
    minutes = number(None if cost.get("seconds") is None else cost["seconds"] / 60, 1)
    status, date = escape(record["status"].replace("_", " ")), bdi(record["provenance"]["created"][:10])
    key = f'<a href="#record-{name}"><code>{escape(record["key"][:8])}</code></a>'
    for selections, score in _by_epoch(attempt) or [([], {})]:
        chosen = "<br>".join([f'<span class="sel {name}">{SELECTION_NAMES[name]}</span>' for name in selections])
        ece = score.get("ece")
        cells = [
            ("Epoch", score.get("epoch", "\u2013")),
            ("Top\u20111", number(score.get("top1"))),
            ("Top\u20115", number(score.get("top5"))),
            ("NLL", number(score.get("nll"), 3)),
            ("ECE", number(None if ece is None else ece * 100, 1)),
        ]
        if unsure:
            cells.append(("Entropy", number(score.get("entropy"), 3)))
        if taught:
            cells.append(("Agreement", number(score.get("agreement"))))
            cells.append(("KL from teacher", number(score.get("kl_to_teacher"), 4)))
        cells.append(("Minutes", minutes))
        numbers = "".join([f'<td class="num" data-label="{label}">{shown}</td>' for label, shown in cells])
        yield (
            f'<tr><th scope="row" class="num">{record["seed"]}</th><td data-label="Status">{status}</td>'
            f'<td class="wraps" data-label="Selection">{chosen}</td>{numbers}<td data-label="Date">{date}</td>'
            f'<td data-label="Record">{key}</td></tr>\n'
        )
        key = ""


def _by_epoch(attempt: Attempt) -> list[tuple[list[str], Mapping[str, Any]]]:
    """The selections of each epoch that has any, with its scores: one network may be the last and the best."""
    found: dict[int, tuple[list[str], Mapping[str, Any]]] = {}
    for name, score in attempt.scores:
        found.setdefault(score["epoch"], ([], score))[0].append(name)
    return list(found.values())


def records(attempts: Sequence[Attempt], section: int, selection: str = "") -> Markup:
    """What stands behind each trial: key, files, code, machine, cost, and what studies read of it."""
    seeds = {attempt.record["seed"] for attempt in attempts}
    dated = len(seeds) < len(attempts)
    return Markup("").join(
        [_record(attempt, f"{section}-{at}", selection, dated) for at, attempt in enumerate(attempts, 1)]
    )


def _record(attempt: Attempt, name: str, selection: str, dated: bool) -> Markup:
    record = attempt.record
    when = f", {bdi(record['provenance']['created'][:16])}" if dated else ""
    facts = "".join([f'<tr><th scope="row">{head}</th><td>{value}</td></tr>\n' for head, value in _facts(attempt)])
    measures = ""
    if attempt.measures:
        title = f"As studies read it, at the {SELECTION_NAMES[selection]}"
        read = "".join([f'<tr><th scope="row">{escape(a)}</th><td>{b}</td></tr>\n' for a, b in attempt.measures])
        measures = f'<tbody>\n<tr><th scope="rowgroup" colspan="2">{title}</th></tr>\n{read}</tbody>'
    # Browsers open what is folded where a link leads into it, and not where it leads to the fold.
    return Markup(
        f"<details><summary>Record of seed {record['seed']}{when}</summary>\n"
        f'<table class="facts" id="record-{name}"><tbody>\n{facts}</tbody>{measures}</table></details>\n'
    )


def _facts(attempt: Attempt) -> Iterable[tuple[str, str]]:
    record = attempt.record
    made, numerics, cost = record["provenance"], record["numerics"], record["cost"]
    yield "Key", _code(record["key"])
    yield "Record", _code(record.get("file"))
    yield "Predictions", _code(attempt.predictions) if attempt.predictions else "none"
    yield "Weights", _code(record["weights_sha256"])
    yield "kdbench", bdi(attempt.code)
    yield "torch", bdi(numerics["torch"]) if numerics else "\u2013"
    yield "Machine", bdi(attempt.machine) if attempt.machine else "\u2013"
    attempts, resumed = made["attempts"], made["resumed"]
    yield (
        "Made",
        f"{bdi(made['created'])}, {attempts} attempt{'' if attempts == 1 else 's'}, "
        f"resumed {resumed} time{'' if resumed == 1 else 's'}",
    )
    if cost:
        minutes, peak = cost.get("seconds"), cost.get("peak_memory_bytes")
        yield (
            "Cost",
            f"{number(cost.get('ratio_to_ce'))} \u00d7 the student alone, "
            f"{number(None if minutes is None else minutes / 60, 1)} min, "
            f"at most {number(None if peak is None else peak / _MIB, 0)} MiB",
        )
        yield (
            "Images a second",
            f"{rate(cost.get('train_images_per_s'))} in training; in inference "
            f"{rate(cost.get('inference_images_per_s_single'))} one at a time, "
            f"{rate(cost.get('inference_images_per_s_best'))} at best; "
            f"ceiling {number(cost.get('ceiling_gflops_per_s'), 0)} GFLOP/s",
        )
    if record["detail"]:
        yield "Detail", bdi(record["detail"])


def _code(text: str | None) -> str:
    return f"<code>{escape(text)}</code>" if text else "\u2013"
