"""What GitHub Pages wants beside a site's pages: no Jekyll, and a page for addresses that lead nowhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from kdbench.errors import UserError, shown
from kdbench.render.address import https
from kdbench.render.texts import escape

#: The address of a folder: names that are not empty and do not lead upwards.
_PLAIN = re.compile(
    r"https://[A-Za-z0-9](-*[A-Za-z0-9]|\.[A-Za-z0-9])*(:[0-9]+)?"
    r"(/(?!\.\.?(/|$))([A-Za-z0-9._~!$&'()*+,;=:@-]|%(?!00|2[EeFf]|5[Cc])[0-9A-Fa-f]{2})+)*/?"
)
NOT_FOUND = "404.html"
#: Tells GitHub Pages to publish the files as they are.
AS_THEY_ARE = ".nojekyll"


def site_address(url: str | None, repository: str | None) -> str:
    """Where the site will be read, ending with a slash: ``url``, or what GitHub calls the pages of ``repository``.

    A page for addresses that lead nowhere is shown at any depth, so no relative link works on it.
    """
    if url is not None:
        if https(url) is None or not _PLAIN.fullmatch(url) or not _port_is_one(url):
            raise UserError(f"--url must be a plain https address without query and fragment, not {shown(url)}.")
        return url.rstrip("/") + "/"
    if found := re.fullmatch(r"https://github\.com/([A-Za-z0-9-]+)/([A-Za-z0-9_.-]+?)(?:\.git)?/?", repository or ""):
        owner, name = found[1].lower(), found[2]
        return f"https://{owner}.github.io/" + ("" if name.lower() == f"{owner}.github.io" else f"{name}/")
    raise UserError("site publish must know where the site will be read: give --url https://OWNER.github.io/NAME.")


def _port_is_one(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:  # there are 65,535
        return False


def write(folder: Path, title: str, address: str, csp: str) -> None:
    """Put both files into ``folder``."""
    (folder / AS_THEY_ARE).write_bytes(b"")
    text = _PAGE.format(title=escape(title), address=escape(address), csp=escape(csp))
    (folder / NOT_FOUND).write_text(text, encoding="utf-8", newline="\n")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{csp}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>No such page · {title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="{address}static/style.css">
</head>
<body>
<main>
<h1>There is no such page</h1>
<p>Names of suites and methods change with their versions.
<a href="{address}index.html">{title}</a> leads to all of them.</p>
</main>
</body>
</html>
"""
