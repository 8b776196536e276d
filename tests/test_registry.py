"""Registries: names, clashes, unknown names and their neighbours."""

from __future__ import annotations

import pytest

from kdbench.errors import UnknownName, UserError
from kdbench.names import check_name
from kdbench.registry import Registry


@pytest.fixture
def fruits() -> Registry[int]:
    registry: Registry[int] = Registry("fruit")
    for number, name in enumerate(("plum", "pear", "peach")):
        registry.add(name, number, f"orchard {number}")
    return registry


def test_holds_what_was_added_in_the_order_of_names(fruits: Registry[int]) -> None:
    assert list(fruits) == fruits.names() == ["peach", "pear", "plum"]
    assert (fruits.get("pear"), fruits.origin("pear"), len(fruits), "pear" in fruits) == (1, "orchard 1", 3, True)


def test_a_clash_names_both_origins_and_keeps_the_first(fruits: Registry[int]) -> None:
    with pytest.raises(UserError, match=r"market: the fruit name 'plum' is already taken by orchard 0"):
        fruits.add("plum", 9, "market")
    assert fruits.get("plum") == 0


@pytest.mark.parametrize("call", ["get", "origin"])
def test_an_unknown_name_lists_the_nearest(fruits: Registry[int], call: str) -> None:
    with pytest.raises(UnknownName, match=r"no fruit named 'peer'; the nearest are pear") as caught:
        getattr(fruits, call)("peer")
    assert "plum" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("KD", "kd"),
        ("ResNet8x4", "resnet8x4"),
        ("logit-mse", "logit_mse"),
        ("LOGIT_MSE", "logit_mse"),
        ("cifar100_short", "cifar100-short"),
        ("at", "At"),
    ],
)
def test_neither_case_nor_hyphens_hide_the_nearest(name: str, nearest: str) -> None:
    registry: Registry[None] = Registry("thing")
    for known in ("kd", "nkd", "resnet8x4", "logit_mse", "cifar100-short", "At"):
        registry.add(known, None, "here")
    with pytest.raises(UnknownName, match=f"no thing named '{name}'; the nearest are {nearest}[,.]"):
        registry.get(name)


@pytest.mark.parametrize(
    ("name", "hint"), [("zzzz", "known are peach, pear, plum"), ("pelt", "known are"), ("", "known are peach")]
)
def test_a_name_near_to_nothing_lists_what_there_is(fruits: Registry[int], name: str, hint: str) -> None:
    with pytest.raises(UnknownName, match=hint):
        fruits.get(name)


def test_an_empty_registry_says_so() -> None:
    with pytest.raises(UnknownName, match="none is registered"):
        Registry("fruit").get("plum")


@pytest.mark.parametrize("name", ["a", "resnet8x4", "kd+at", "A.b-c_d+e", "x" * 64])
def test_slugs(name: str) -> None:
    assert check_name("thing", name, "here") == name


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "a.", "a-", "a b", "a/b", "../a", "a\n", "ä", "x" * 65, "<b>", "a:b", None, 3]
)
def test_what_is_no_slug_is_refused_with_its_place(name: object) -> None:
    with pytest.raises(UserError, match=r"^here: .* cannot name a thing"):
        check_name("thing", name, "here")
    with pytest.raises(UserError):
        Registry("thing").add(name, 1, "here")  # type: ignore[arg-type]
