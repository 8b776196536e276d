"""Versioned results files: their schema, their store, and the literature's numbers beside them. Imports no torch."""

from __future__ import annotations

from kdbench.records.results import DONE
from kdbench.records.store import Record, Store
from kdbench.records.validate import SCHEMA_VERSION, check

__all__ = ["DONE", "SCHEMA_VERSION", "Record", "Store", "check"]
