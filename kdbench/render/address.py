"""Where each page lies. Any name becomes a file name that is safe, unique and the same on every system."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from urllib.parse import quote

# Lower case only: two names that differ in case must not meet on a file system that ignores it.
_SAFE = re.compile(r"[a-z0-9](?:[a-z0-9_.+@()-]{0,62}[a-z0-9+)])?")
# What a name that is not safe ends with: a safe one that does, too, might be another's address.
_HASHED = re.compile(r"-[0-9a-f]{10}$")
_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?")


@lru_cache(maxsize=8192)
def slug(name: str) -> str:
    """``name`` itself where it is safe, else its safe letters and a hash of the whole. "--" joins two names."""
    if _SAFE.fullmatch(name) and "--" not in name and not _RESERVED.fullmatch(name) and not _HASHED.search(name):
        return name
    letters = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48].strip("-")
    return f"{letters or 'x'}-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:10]}"


def method_page(name: str) -> str:
    return f"methods/{slug(name)}.html"


def suite_page(name: str) -> str:
    return f"suites/{slug(name)}.html"


def study_page(name: str) -> str:
    return f"studies/{slug(name)}.html"


def row_page(suite: str, label: str, evidence: str = "measured") -> str:
    """``evidence``: rows of one label that others contributed have a page of their own."""
    name = slug(label) if evidence == "measured" else f"{slug(label)}--{slug(evidence)}"
    return f"rows/{slug(suite)}/{name}.html"


@lru_cache(maxsize=8192)
def place_anchor(dataset: str, pair: str) -> str:
    """What a row's page calls its part of ``pair``."""
    teacher, _, student = pair.partition(":")
    return f"on-{slug(dataset)}--{slug(teacher)}--{slug(student)}"


def versus_page(one: str, other: str) -> str:
    """The page of two methods, whichever is named first."""
    first, second = sorted((one, other))
    return f"compare/{slug(first)}--{slug(second)}.html"


def pair_page(dataset: str, teacher: str, student: str) -> str:
    return f"pairs/{slug(dataset)}/{slug(teacher)}--{slug(student)}.html"


def root_of(page: str) -> str:
    """The relative way from ``page`` back to the site's root, "" or "../" and so on."""
    return "../" * page.count("/")


def href(page: str, target: str) -> str:
    """A relative, percent-encoded link from one page of the site to another."""
    return root_of(page) + quoted(target)


@lru_cache(maxsize=8192)
def quoted(target: str) -> str:
    """``target`` percent-encoded."""
    return quote(target, safe="/@()")


def https(url: object) -> str | None:
    """``url`` if it is a plain https address, else None: what is not one is shown as text."""
    if isinstance(url, str) and re.fullmatch(r"https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[^\s\"'<>\\]*)?", url):
        return url
    return None
