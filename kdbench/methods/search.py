"""Random configurations of a method, from the ranges that its card gives. Imports no torch."""

from __future__ import annotations

from kdbench.data.splits import philox
from kdbench.errors import UserError
from kdbench.methods.card import HyperParameter, MethodSpec, Search, Value


def searched(spec: MethodSpec, where: str) -> dict[str, tuple[HyperParameter, Search]]:
    """The knobs of ``spec`` that are tuned; UserError, which begins with ``where``, where its card gives none."""
    found = {name: (knob, knob.search) for name, knob in spec.hyperparameters.items() if knob.search is not None}
    if not found:
        raise UserError(
            f"{where}: method {spec.name!r} cannot be tuned, as its card gives no range; "
            "add search = { low, high, source } to a hyper-parameter."
        )
    return found


def drawn(spec: MethodSpec, seed: int, number: int, where: str) -> dict[str, Value]:
    """The configuration ``number``, from 0, of ``spec`` under ``seed``: a value for each knob that is tuned.

    It depends on these and on the method's and the knob's names alone: neither on how many are drawn, nor on what else
    is.
    """
    return {
        name: _value(knob, search, _share(f"search:{spec.name}:{name}", seed, number))
        for name, (knob, search) in searched(spec, where).items()
    }


def _share(purpose: str, seed: int, number: int) -> float:
    """A number in [0, 1]: raw words, as numpy's ways of drawing may change."""
    return int(philox(purpose, seed).random_raw(number + 1)[number]) / 2**64


def _value(knob: HyperParameter, search: Search, share: float) -> Value:
    """What lies at ``share`` of the range, to three digits, which is what papers print."""
    low, high = search.low, search.high
    value = low * (high / low) ** share if search.log else low + (high - low) * share
    return round(value) if knob.type == "int" else min(max(float(f"{value:.3g}"), low), high)
