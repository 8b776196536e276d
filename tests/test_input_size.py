"""Teachers that are built by options, and see images at a size of their own: what teaches, and what is said if not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from bench import TRAINED, Bench, suite_text
from test_cli import RUN, Cli, cli  # noqa: F401
from test_init import keyed
from test_teachers import CHECKPOINT, keep, weights
from torch.nn import functional as F

from kdbench.errors import NotApplicable, UserError
from kdbench.methods import METHODS
from kdbench.models.build import AS_NAMED, Build
from kdbench.models.factory import check_build, create
from kdbench.suites import Suite
from kdbench.train.conformance import NORM, make_bench
from kdbench.train.member import frozen_spec
from kdbench.trials.trial import Trial, teacher_identity

MakeSuite = Callable[[str], Suite]
SIZED = f"{CHECKPOINT}\ninput_size = 12"
#: Methods that look at maps, and so at their sizes.
MAPPED = [name for name in METHODS.names() if METHODS.get(name).needs & {"stages", "preacts", "stem", "pooled_map"}]


def small(build: Build = AS_NAMED, model: str = "tiny_cnn_s"):
    network = create(model, classes=10, image_shape=(3, 32, 32), mean=NORM.mean, std=NORM.std, build=build)
    return network.eval()


def test_images_are_resized_before_they_are_seen() -> None:
    plain, resized = small(), small(Build(input_size=48))
    resized.load_state_dict(plain.state_dict())
    for side in (32, 80):
        x = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        wanted = plain(F.interpolate(x, (48, 48), mode="bilinear", antialias=True)).logits
        assert torch.equal(resized(x).logits, wanted)
    assert resized.spec("t", (3, 32, 32)).stages[0][1:] == (48, 48)


def test_timm_builds_what_its_options_say() -> None:
    build = Build({"img_size": 64, "depth": 2}, 64)
    network = small(build, "timm/vit_tiny_patch16_224")
    assert network.body.pos_embed.shape[1] == 17
    assert len(network.body.blocks) == 2
    assert network(torch.rand(1, 3, 32, 32), frozenset({"stages"})).stages[0].shape[2:] == (4, 4)
    with pytest.raises(UserError, match=r"cannot be built with the options .*img_sise"):
        check_build("timm/vit_tiny_patch16_224", 10, (3, 32, 32), Build({"img_sise": 64}))


@pytest.mark.parametrize("name", MAPPED)
@pytest.mark.parametrize("side", [20, 50])
def test_methods_of_maps_learn_from_maps_of_other_sizes_or_say_why_not(name: str, side: int) -> None:
    bench = make_bench(name)
    shape = bench.dataset.spec.image_shape
    network = create(
        bench.teacher, classes=10, image_shape=shape, mean=NORM.mean, std=NORM.std, build=Build(input_size=side)
    )
    bench.network, bench.spec = network, frozen_spec(network, bench.teacher, shape)
    try:
        member = bench.member()
    except NotApplicable as error:
        said = str(error)
    else:
        said = ""
    if said:
        assert said.startswith(f"{name}: ")
        assert "; " in said, "and what would do"
        return
    batch = bench.batch(0, member)
    member.step(batch, bench.taught(batch, member))
    assert member.scoring.sums.finite()


def test_what_a_teacher_sees_is_in_keys_alone_where_it_is_said(make_suite: MakeSuite) -> None:
    plain = keyed(make_suite(suite_text(["kd"], epochs=1, teacher=CHECKPOINT)), {"tutor": "1" * 64})[0]
    sized = keyed(make_suite(suite_text(["kd"], epochs=1, teacher=SIZED, name="sized")), {"tutor": "1" * 64})[0]
    assert teacher_identity(sized.teacher, "digits", "") == {
        **teacher_identity(plain.teacher, "digits", ""),
        "input_size": 12,
    }
    own = suite_text(["kd"], epochs=1, teacher=f"{TRAINED}\ninput_size = 12", name="trained")
    trained = keyed(make_suite(own), {})[0]
    other = replace(trained.teacher, build=AS_NAMED)
    assert teacher_identity(trained.teacher, "digits", "") != teacher_identity(other, "digits", "")
    assert Trial.from_json(sized.to_json()) == sized


def test_a_teacher_at_its_own_size_teaches(bench: Bench, make_suite: MakeSuite, cli: Cli) -> None:  # noqa: F811
    keep(bench, weights())
    make_suite(suite_text(["kd", "at"], epochs=1, teacher=SIZED))
    ended = cli(*RUN)
    assert (ended.code, ended.err) == (0, "")
    assert {each["status"] for each in bench.records().values()} == {"finished"}
    make_suite(suite_text(["kd"], epochs=1, teacher=CHECKPOINT, name="plain"))
    assert cli("run", "--suite", "plain", "--device", "cpu", "--slots", "1").code == 0
    said = [each["teacher"]["top1"] for each in bench.store.read()[0] if each["label"] == "kd"]
    assert len(set(said)) == 2, "another size is another function"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("input_size = 0.5", "input_size must be an int"),
        ("input_size = 5000", "input_size must be at most 4096"),
        ("options = { img_size = 64 }", "options are given to timm, and tiny_cnn_s is not timm's"),
        ('model = "timm/vit_tiny_patch16_224"\noptions = { checkpoint_path = "x" }', "cannot hold 'checkpoint_path'"),
        ('model = "timm/vit_tiny_patch16_224"\noptions = { a = [1, nan] }', "'a' must be a number, a text or a list"),
        ('model = "timm/vit_tiny_patch16_224"\noptions = { a = { b = 1 } }', "'a' must be a number, a text or a list"),
    ],
)
def test_wrong_options_are_one_sentence(make_suite: MakeSuite, fields: str, said: str) -> None:
    teacher = TRAINED if "model" not in fields else 'kind = "trained"\nseed = 9'
    with pytest.raises(UserError) as caught:
        make_suite(suite_text(["kd"], teacher=f"{teacher}\n{fields}"))
    assert said in str(caught.value)


def test_options_that_timm_does_not_take_are_said_at_planning(make_suite: MakeSuite, cli: Cli) -> None:  # noqa: F811
    teacher = 'kind = "trained"\nmodel = "timm/resnet10t"\nseed = 9\noptions = { depht = 3 }'
    make_suite(suite_text(["kd"], epochs=1, teacher=teacher))
    ended = cli(*RUN)
    assert ended.code == 2
    assert "timm/resnet10t cannot be built with the options {'depht': 3}" in ended.err
