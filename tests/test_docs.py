"""The documentation is complete and its links hold: what a user can type, write or read has its line in docs/."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from kdbench import cli, errors, plugin, plugins, protocol
from kdbench.cli import live, results
from kdbench.composition import COMPOSITIONS, NETWORKS
from kdbench.data.builtin import BUILTIN
from kdbench.data.spec import DatasetSpec
from kdbench.methods import METHODS, HyperParameter, MethodSpec, Paper, card
from kdbench.models import ModelSpec
from kdbench.records.validate import schema
from kdbench.suites import SUITES, start, suite, teacher
from kdbench.supervision import SUPERVISIONS

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def section(page: str, heading: str) -> str:
    """The text under ``heading`` of ``page``, subsections included."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*)", read(page), re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no section {heading!r}"
    return re.split(rf"^#{{1,{len(found[1])}}} ", found[2], maxsplit=1, flags=re.MULTILINE)[0]


def unfenced(text: str) -> str:
    """``text`` without its code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def terms(text: str) -> set[str]:
    """What stands in first cells of tables as code: the words a reader looks up."""
    cells = [row.split("|")[1] for row in text.splitlines() if row.startswith("|")]
    return {term for cell in cells for term in re.findall(r"`([^`]+)`", cell)}


def codes(text: str) -> set[str]:
    """Everything that stands as code in a sentence or a table, and each of its words."""
    found = re.findall(r"`([^`]+)`", unfenced(text))
    return {*found, *(word for code in found for word in code.split())}


#: The commands, and the verbs of those that have some.
COMMANDS = [*(name for name in cli.COMMANDS if name != "results"), *(f"results {verb}" for verb in results.VERBS)]


def parser_of(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=command)
    name, _, verb = command.partition(" ")
    (results.module_of(verb) if verb else cli.module_of(name)).add_arguments(parser)
    return parser


@pytest.mark.parametrize("command", COMMANDS)
def test_each_flag_of_a_command_is_documented_and_no_other(command: str) -> None:
    actions = [action for action in parser_of(command)._actions if action.dest != "help"]
    text = section("docs/cli.md", f"kdbench {command}")
    flags = {flag for action in actions for flag in action.option_strings}
    assert {term.split()[0] for term in terms(text)} == flags
    choices = {str(choice) for action in actions for choice in action.choices or ()}
    assert choices <= {code.removeprefix(f"kdbench {command} ") for code in codes(text)}


def test_each_command_has_a_section_and_no_other() -> None:
    assert set(re.findall(r"^## kdbench (\S+)$", read("docs/cli.md"), re.MULTILINE)) == set(cli.COMMANDS)


def test_each_exit_code_is_documented() -> None:
    rows = dict(re.findall(r"^\| `(\d+)` \| (?:`(\w+)`)? ?\|", section("docs/cli.md", "Exit codes"), re.MULTILINE))
    known = {str(value): name for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert known.items() <= rows.items()
    assert not set(known) - set(re.findall(r"`(\d+)`", section("README.md", "Exit codes")))


def test_each_state_that_doctor_knows_is_documented() -> None:
    from kdbench.cli import doctor

    assert set(get_args(doctor.State)) <= codes(section("docs/cli.md", "kdbench doctor"))


def test_each_environment_variable_is_documented() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "kdbench").rglob("*.py")]
    used = {name for text in sources for name in re.findall(r"\bKDBENCH_[A-Z_]+\b", text)}
    assert used == {term for term in terms(section("docs/cli.md", "Environment")) if term.startswith("KDBENCH")}


def fields_of(node: dict[str, Any], path: str = "") -> Iterator[str]:
    """Dotted names of every property of a JSON schema; entries of lists and of nullable objects count as their own."""
    if "items" in node:
        yield from fields_of(node["items"], path)
    for name, value in node.get("properties", {}).items():
        yield f"{path}{name}"
        yield from fields_of(value, f"{path}{name}.")


def test_each_field_of_a_record_is_documented_and_no_other() -> None:
    known = {re.sub(r"^scores\.\w+\.", "scores.SELECTION.", name) for name in fields_of(schema("record"))}
    known -= {f"scores.{selection}" for selection in ("last", "best_val", "best_test")}
    documented = terms(section("docs/records.md", "Fields of a record"))
    # Sections that are objects of fields are introduced by a sentence instead of a row.
    parents = {name.partition(".")[0] for name in known if "." in name}
    assert documented - parents == known - parents
    assert parents <= codes(section("docs/records.md", "Fields of a record"))
    assert {f"scores.{selection}" for selection in ("last", "best_val", "best_test")} <= codes(read("docs/records.md"))


@pytest.mark.parametrize("kind", ["reported", "source"])
def test_each_field_of_the_literature_is_documented_and_no_other(kind: str) -> None:
    documented = {term for term in terms(section("docs/records.md", "Reported numbers")) if term.startswith(f"{kind}.")}
    assert documented == {f"{kind}.{name}" for name in schema(kind)["properties"]}


def test_each_field_of_a_baseline_is_documented_and_no_other() -> None:
    documented = {term for term in terms(section("docs/records.md", "Baselines")) if term.startswith("baseline.")}
    assert documented == {f"baseline.{name}" for name in fields_of(schema("baseline"))}


@pytest.mark.parametrize(
    ("kind", "page", "heading"),
    [("run", "records", "Runs"), ("live", "operations", "What status prints for programs")],
)
def test_each_field_of_a_run_is_documented_and_no_other(kind: str, page: str, heading: str) -> None:
    documented = {term for term in terms(section(f"docs/{page}.md", heading)) if term.startswith(f"{kind}.")}
    assert documented == {f"{kind}.{name}" for name in fields_of(schema(kind))}


def test_each_way_in_which_a_run_stands_or_fails_is_documented() -> None:
    page = codes(read("docs/operations.md"))
    assert set(schema("live")["properties"]["failures"]["items"]["properties"]["status"]["enum"]) <= page
    assert set(schema("run")["properties"]["outcome"]["enum"]) <= codes(section("docs/records.md", "Runs"))
    assert set(get_args(live.State)) <= page


def test_each_verdict_and_form_of_regress_is_documented() -> None:
    from kdbench.regress.judge import Verdict
    from kdbench.regress.report import ENDINGS

    assert set(Verdict) <= codes(section("docs/cli.md", "kdbench regress"))
    assert set(Verdict) <= terms(section("docs/regression.md", "What a verdict means"))
    assert set(ENDINGS) <= codes(section("docs/cli.md", "kdbench regress"))


def test_each_status_metric_and_selection_is_documented() -> None:
    words = codes(read("docs/records.md"))
    record, reported = schema("record")["properties"], schema("reported")["properties"]
    enums = [record["status"], record["evidence"], *(reported[name] for name in ("metric", "selection", "provenance"))]
    assert {word for enum in enums for word in enum["enum"]} <= words


def test_each_array_of_a_prediction_file_is_documented_and_no_other() -> None:
    import numpy as np
    import torch

    from kdbench.measure.evaluate import Predictions, arrays_of, leads_of

    nothing = np.zeros(1, dtype=np.int16)
    logits, labels = torch.zeros(1, 2), np.zeros(1, dtype=np.int64)
    leads = leads_of(np.array([1]), (logits, labels), (logits, labels))
    kept = Predictions(nothing, nothing, nothing, 0.0, None, None, leads)
    assert terms(section("docs/records.md", "Prediction files")) == set(arrays_of({"SELECTION": kept}, nothing))


def test_each_part_of_the_identity_is_documented() -> None:
    from kdbench.trials.teacher import Normalisation
    from kdbench.trials.trial import Trial

    norm, plan = Normalisation((), ()), protocol.Protocol(epochs=1, batch=2, lr=0.1)
    trial = Trial("s@1", "digits", "0", plan, "student", norm, "none:student", None, "ce", 1, {}, seed=0, label="ce")
    assert terms(section("docs/records.md", "Identity and key")) == set(trial.identity())


def test_each_field_of_a_protocol_is_documented_and_no_other() -> None:
    text = section("docs/suites.md", "Protocol")
    assert terms(text) == {field.name for field in dataclasses.fields(protocol.Protocol)}
    for allowed in (protocol.OPTIMISERS, protocol.SCHEDULES, protocol.AUGMENTATIONS, protocol.PRECISIONS):
        assert set(allowed) <= codes(text)


def test_each_default_of_a_protocol_is_documented() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", section("docs/suites.md", "Protocol"), re.MULTILINE))
    for field in dataclasses.fields(protocol.Protocol):
        if field.default is dataclasses.MISSING:
            assert rows[field.name] == "required"
        elif isinstance(field.default, bool | str | tuple):
            assert rows[field.name] == (str(field.default).lower() if field.default != () else "none")
        else:
            assert float(rows[field.name]) == field.default, field.name


def test_each_field_that_a_suite_is_read_from_is_documented() -> None:
    sources = "".join(map(inspect.getsource, (suite, teacher, start)))
    wanted = set(re.findall(r'\.(?:take|count)\("(\w+)"', sources))
    pages = read("docs/suites.md") + section("docs/teachers.md", "Teachers made of others")
    documented = {re.sub(r"[\[\]]|\.NAME", "", term) for term in terms(pages)}
    assert wanted <= documented


def test_each_kind_of_teacher_and_of_supervision_is_documented_with_its_fields_and_no_others() -> None:
    for kinds in (COMPOSITIONS, SUPERVISIONS):
        for name in kinds:
            known = {field.name: field.default for field in dataclasses.fields(kinds.get(name)) if field.init}
            text = section("docs/teachers.md", name)
            kind = kinds.get(name)
            own = {"seed", "protocol"} if getattr(kind, "MAKER", "") and kind.PARTS != (0, 0) else set()
            assert terms(text) == {*known, *own}, name
            rows = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]+)`? \|", text, re.MULTILINE))
            for field, default in known.items():
                if isinstance(default, str) and default:
                    assert rows[field] == default
                elif rows[field] not in ("required", "none", "all"):
                    assert float(rows[field]) == default, f"{name}: {field}"
                else:
                    assert not default, f"{name}: {field}"
    assert {*NETWORKS, *COMPOSITIONS} <= codes(section("docs/suites.md", "Teachers"))


def test_each_field_of_a_card_is_documented() -> None:
    text = section("docs/plugins.md", "The card")
    written = [field.name for kind in (MethodSpec, HyperParameter) for field in dataclasses.fields(kind)]
    assert {field.name for field in dataclasses.fields(card.Applicability)} <= codes(text)
    # What a composition is made of is nothing a card says; one says of a paper that there is none.
    wanted = set(written) - {"parts"} | {"unpublished"}
    assert terms(text) == wanted
    assert {field.name for field in dataclasses.fields(Paper)} <= codes(text)
    assert {*card.FAMILIES, *card.NEEDS, *card.ROLES} <= codes(text)


def test_each_name_of_the_public_face_is_documented_and_no_other() -> None:
    rows = re.findall(r"^\| (`[^|]+) \|", section("docs/plugins.md", "The public face"), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(plugin.__all__)
    assert all(getattr(plugin, name).__doc__ for name in plugin.__all__ if name != "Sweep")  # an alias of a type


def test_what_newcomers_copy_uses_the_public_face_alone() -> None:
    templates = (ROOT / "kdbench" / "cli" / "templates").iterdir()
    pages = (read("README.md"), read("docs/tutorial.md"), *(path.read_text("utf-8") for path in templates))
    imported = {
        name for page in pages for name in re.findall(r"^\s*(?:from|import) (kdbench[\w.]*)", page, re.MULTILINE)
    }
    assert imported == {"kdbench.plugin"}


def test_each_entry_point_group_is_documented_and_no_other() -> None:
    groups = set(re.findall(r'"(kdbench\.\w+)"', inspect.getsource(plugins)))
    assert terms(section("docs/plugins.md", "Entry points")) == groups


def test_each_field_a_plugin_gives_is_documented() -> None:
    for kind, page in ((DatasetSpec, "docs/data.md"), (ModelSpec, "docs/plugins.md")):
        assert {field.name for field in dataclasses.fields(kind)} <= codes(read(page)), kind.__name__


def test_each_data_set_has_its_licence_in_the_docs_and_in_the_notice() -> None:
    rows = {term: row for row in read("docs/data.md").splitlines() for term in terms(row)}
    for spec in BUILTIN:
        assert spec.licence.partition(";")[0].partition(" (")[0].replace("ImageNet ", "ImageNet's ") in rows[spec.name]
        assert spec.title in read("NOTICE")


def test_each_suite_and_method_is_in_the_changelog() -> None:
    assert {*SUITES, *METHODS} <= codes(read("CHANGELOG.md"))


def anchor(heading: str) -> str:
    """A heading's anchor as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")


def test_no_merge_was_left_half_done() -> None:
    files = [*PAGES, *(ROOT / "kdbench").rglob("*.*"), *(ROOT / "tests").glob("*.py"), *ROOT.glob("*.toml")]
    text = {".md", ".py", ".toml", ".html", ".css", ".js", ".json", ".csv"}
    marks = re.compile("^(<{7} |>{7} )", re.MULTILINE)
    assert not [path for path in files if path.suffix in text and marks.search(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_link_is_broken(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", unfenced(page.read_text(encoding="utf-8"))):
        if target.startswith("https://"):
            continue
        path, _, fragment = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.is_file(), f"{target} leads nowhere"
        if fragment:
            headings = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in map(anchor, headings), f"{target} names no heading"


def test_each_page_is_reachable_from_the_readme() -> None:
    seen, queue = set(), [ROOT / "README.md"]
    while queue:
        page = queue.pop()
        if page not in seen and page.suffix == ".md":
            seen.add(page)
            links = re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8"))
            queue += [(page.parent / link).resolve() for link in links if not link.startswith("https://")]
    assert set(PAGES) <= seen


def test_what_pages_say_of_the_checkout_is_there() -> None:
    """Files of the tests, benchmarks and code, and environments of tox."""
    environments = set(re.findall(r"^\[testenv:(\w+)\]", read("tox.ini"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"\b(?:tests|benchmarks|kdbench)/[a-z0-9_./]+\.[a-z]+\b", text):
            assert (ROOT / path).is_file(), f"{page.name} names {path}"
        assert set(re.findall(r"\btox -e (\w+)", text)) <= environments, page.name


def test_ci_runs_the_command_that_the_readme_gives_for_the_tests() -> None:
    command = re.search(r"```sh\n(.+)\n```", section("README.md", "Run the tests"))
    assert command
    lines = read(".ci/run").rstrip().splitlines()
    first, last = command[1].split(" && ")
    assert first in lines
    assert lines[-1] == last
