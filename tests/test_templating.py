"""Templates say what Jinja's own would, whatever they are given: they only take less time."""

from __future__ import annotations

from typing import Any

import jinja2
import pytest
from markupsafe import Markup, escape

from kdbench.render.templating import Templates

HOSTILE = "<script>alert('&\"')</script>"


class Html:
    def __html__(self) -> str:
        return "<i>ours</i>"


class Text:
    def __str__(self) -> str:
        return HOSTILE


def called(one: object, other: object = "", *, last: str = "") -> str:
    return f"{one}{other}{last}"


SOURCES = {
    "a value": "{{ x }}",
    "between texts": '<p title="{{ x }}">{{ x }}</p>',
    "joined": "{{ x ~ '<' }}",
    "through a filter": "{{ x | string | upper }}",
    "safe": "{{ x | safe }}",
    "in a macro": "{% macro m(y) %}<b>{{ y }}</b>{% endmacro %}{{ m(x) }}{{ m(m(x)) }}",
    "in a variable": "{% set y %}{{ x }}{% endset %}{{ y }}",
    "in a loop": "{% for y in [x, x] %}{{ y }}{{ loop.index }}{% endfor %}",
    "a function": "{{ called(x, other=x, last='<') }}",
    "its arguments unpacked": "{{ called(*[x, x]) }}{{ called(**{'one': x}) }}",
    "another of its name": "{% macro called(y) %}<b>{{ y }}</b>{% endmacro %}{{ called(x) }}",
    "a method": "{{ {'a': x}.get('a') }}",
    "unescaped by its block": "{% autoescape false %}{{ x }}{% endautoescape %}{{ x }}",
}
VALUES = {
    "text": HOSTILE,
    "markup": Markup("<b>bold</b>"),
    "html": Html(),
    "an object": Text(),
    "a number": 1.5,
    "nothing": None,
    "a list": [HOSTILE],
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
@pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
def test_what_is_written_is_what_jinja_writes(source: str, value: Any) -> None:
    written = []
    for kind in (Templates, jinja2.Environment):
        environment = kind(autoescape=True, extensions=["jinja2.ext.do"])
        environment.globals["called"] = called
        template = environment.from_string(source)
        written.append([template.render(x=value) for _ in range(2)])  # the second time it is remembered
    assert written[0] == written[1]


def test_a_text_is_escaped_and_what_jinja_knows_of_it_is_ours() -> None:
    """If Jinja gave its generator another form, pages would be as before and take longer: this says so."""
    environment = Templates(autoescape=True)
    environment.globals["called"] = called
    assert environment.from_string("{{ x }}").render(x=HOSTILE) == escape(HOSTILE)
    code = environment.compile("{{ x }}{{ called(x) }}", raw=True)
    assert "environment.escaped(" in code
    assert "context.call(" not in code


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError):
        Templates(autoescape=True, undefined=jinja2.StrictUndefined).from_string("{{ x }}").render()
