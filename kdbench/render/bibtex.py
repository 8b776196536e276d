"""What to cite: the papers of the methods that rows are of, and kdbench."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache

from kdbench import __version__
from kdbench.methods import METHODS, leaves
from kdbench.records.implementations import implementation
from kdbench.records.literature import Source
from kdbench.render.catalogue import Catalogue, components

#: How an entry begins: its kind and its key; and one of its fields, up to the value.
_HEAD = re.compile(r"@([A-Za-z]+)\s*\{\s*([^\s,{}@%\"#()=~\\]+)\s*,")
_FIELD = re.compile(r"\s*[A-Za-z][\w.:-]*\s*=\s*")
_BARE = re.compile(r"[A-Za-z][\w.:-]*|[0-9]+")
_NO_ENTRY = frozenset({"preamble", "string", "comment"})
_ANOTHER = re.compile(r"@\s*[A-Za-z]+\s*[{(]")
#: What TeX obeys, and those words that read or write files or make commands of their own; "^^5c" is another backslash.
_COMMAND = re.compile(r"\\([A-Za-z@]+)")
_FORBIDDEN = frozenset({
    *("input", "include", "openin", "openout", "read", "readline", "write", "immediate", "special", "output"),
    *("everypar", "loop", "toks", "begin", "end", "def", "edef", "gdef", "xdef", "let", "futurelet", "chardef"),
    *("mathchardef", "catcode", "csname", "expandafter", "scantokens", "uppercase", "lowercase", "directlua"),
    *("latelua", "luaexec", "newcommand", "renewcommand", "providecommand", "newenvironment", "usepackage"),
    *("RequirePackage", "documentclass", "verbatiminput", "lstinputlisting", "inputminted", "ShellEscape"),
})  # fmt: skip

#: The key of the entry of kdbench.
OWN = "kdbench"
#: What TeX obeys in a text.
_SPECIAL = str.maketrans({letter: f"\\{letter}" for letter in "&%$#_{}"} | {"\\": "", "~": " ", "^": " "})


def bibtex(catalogue: Catalogue, methods: Iterable[str]) -> str:
    """The entries of ``methods``, each once, and of kdbench with the records shown.

    A composition has those of what it is made of; what is trained nowhere here those of the sources that propose it.
    """
    methods = set(methods)
    entries = {_own(catalogue): None} | {e: None for method in sorted(methods) for e in _of(catalogue, method)}
    known = {key for entry in entries if (key := _key(entry))}
    brought = {entry: None for method in sorted(set(methods)) for entry in _brought(catalogue, method, known)}
    return "\n\n".join([*entries, *brought, ""])


def sources(catalogue: Catalogue) -> str:
    """The entries of every source of printed numbers, and of kdbench with the records shown."""
    printing = sorted({row.source for row in catalogue.literature.rows})
    return "\n\n".join([_own(catalogue), *(_printing(catalogue.literature.sources[name]) for name in printing), ""])


def citable(catalogue: Catalogue, method: str) -> bool:
    """Whether there may be something to cite for ``method``."""
    return method in catalogue.cards or next(_of(catalogue, method), None) is not None


def _own(catalogue: Catalogue) -> str:
    year = (catalogue.built or catalogue.latest)[:4]
    said = f"  year    = {{{year}}},\n" if year.isdecimal() else ""
    return (
        f"@software{{{OWN},\n"
        "  author  = {{The kdbench authors}},\n"
        "  title   = {kdbench: a benchmark suite and leaderboard generator for knowledge distillation},\n"
        f"  version = {{{__version__}}},\n{said}"
        f"  note    = {{Records: set {catalogue.digest}}},\n}}"
    )


def _of(catalogue: Catalogue, method: str) -> Iterator[str]:
    trained = implementation(method)
    if trained is not None and trained in METHODS:
        papers = (leaf.paper for leaf in leaves(METHODS.get(trained)))
        yield from (paper.bibtex.strip() for paper in papers if paper is not None)
    elif method not in catalogue.cards:
        sources = catalogue.literature.sources
        named = {method, *components(method)}
        yield from (_printing(sources[name]) for name in sorted(sources) if named & set(sources[name].proposes.split()))


def _printing(source: Source) -> str:
    """What a source is cited by: its own words, in the one field that no style takes apart."""
    fields = {"title": source.citation, "year": str(source.year or ""), "note": source.identifier}
    said = "".join(f"  {name:<5} = {{{text.translate(_SPECIAL)}}},\n" for name, text in fields.items() if text)
    return f"@misc{{source-{source.source},\n{said}}}"


def _brought(catalogue: Catalogue, method: str, known: set[str]) -> Iterator[str]:
    """The entry that a record's card brought along: one that is no sound entry would spoil those after it.

    ``known`` has the keys that are taken, and gets its own.
    """
    card = None if method in METHODS else catalogue.cards.get(method)
    text = card.paper["bibtex"] if card is not None and card.paper else ""
    entry = "\n".join(line.replace("\u00a0", " ").rstrip() for line in text.strip().splitlines())
    name = method if method.isprintable() else ascii(method)
    if not entry:
        return
    if not is_entry(entry):
        yield f"% Left out: what a record of {name} brought along is not one plain entry of BibTeX."
    elif (key := _key(entry)) in known | _our_keys():
        yield f"% Left out: what a record of {name} brought along has the key of another entry."
    else:
        known.add(key)
        yield entry


def is_entry(text: str) -> bool:
    """Whether ``text`` is one entry and nothing else, whose fields are closed and hold no command that acts."""
    head = _HEAD.match(text)
    if head is None or head[1].lower() in _NO_ENTRY or _ANOTHER.search(text, head.end()) or "^^" in text:
        return False
    printed = text.replace("\n", "").replace("\t", "")
    if not printed.isprintable() or _FORBIDDEN & set(_COMMAND.findall(text)):
        return False
    place = head.end()
    while field := _FIELD.match(text, place):
        if (end := _value(text, field.end())) is None:
            return False
        rest = text[end:].lstrip()
        if not rest.startswith(","):
            return rest == "}"
        place = len(text) - len(rest) + 1
    return place > head.end() and text[place:].strip() == "}"


def _value(text: str, begin: int) -> int | None:
    """Where the value that begins there ends: in balanced braces or quotes, or a bare word; None for others."""
    opening = text[begin : begin + 1]
    if opening not in ("{", '"'):
        found = _BARE.match(text, begin)
        return None if found is None else found.end()
    depth = 0
    for place in range(begin, len(text)):
        letter = text[place]
        depth += (letter == "{") - (letter == "}")
        if depth < 0:
            return None
        if depth == 0 and (letter == "}" if opening == "{" else letter == '"' and place > begin):
            return place + 1
    return None


def _key(entry: str) -> str:
    """What an entry is called, as BibTeX compares it."""
    head = _HEAD.match(entry)
    return "" if head is None else head[2].casefold()


@cache
def _our_keys() -> frozenset[str]:
    papers = (METHODS.get(name).paper for name in METHODS)
    return frozenset({OWN, *(_key(paper.bibtex.strip()) for paper in papers if paper is not None)})
