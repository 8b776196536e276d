"""Jinja templates that escape a text once: a large site has millions of values, and few of them are new."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from markupsafe import Markup

from kdbench.render.texts import escape

_text = lru_cache(maxsize=1 << 16)(escape)


class _Generator(CodeGenerator):
    """Writes ``environment.escaped()`` where Jinja would write ``escape()``, which makes a Markup of every value."""

    def _output_child_pre(self, node: Any, frame: Any, finalize: Any) -> None:
        if frame.eval_ctx.volatile or not frame.eval_ctx.autoescape or finalize.src is not None:
            super()._output_child_pre(node, frame, finalize)
        else:
            self.write("environment.escaped(")

    def visit_Call(self, node: nodes.Call, frame: Any, forward_caller: bool = False) -> None:
        """A function of ours is called as it is: it has no need of the context that Jinja would look for."""
        called, unpacked = node.node, node.dyn_args or node.dyn_kwargs
        ours = isinstance(called, nodes.Name) and called.name in self.environment.globals
        if not ours or unpacked or forward_caller:
            super().visit_Call(node, frame, forward_caller=forward_caller)
            return
        self.visit(called, frame)
        self.write("(")
        for argument in node.args:
            self.visit(argument, frame)
            self.write(", ")
        for named in node.kwargs:
            self.write(f"{named.key}=")
            self.visit(named.value, frame)
            self.write(", ")
        self.write(")")


class Templates(jinja2.Environment):
    code_generator_class = _Generator

    @staticmethod
    def escaped(value: object) -> str:
        """``value`` as a part of a page."""
        kind = type(value)
        return _text(value) if kind is str else value if kind is Markup else escape(value)  # type: ignore[return-value]
