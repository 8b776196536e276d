"""The mathematics of methods with connectors or with classifiers applied to maps, and what they deploy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import truncnorm
from steps import TEACHER_WIDTHS, build, fake_network, fake_outputs, make_step, rng, run, total
from torch import Tensor, nn
from torch.nn import functional as F

from kdbench.errors import UserError
from kdbench.measure.cost import parameters
from kdbench.methods import METHODS, load_class
from kdbench.methods.base import Method
from kdbench.methods.cells import cell_logits, consistency
from kdbench.methods.heads import on_map
from kdbench.methods.zoo.cat_kd import activation_maps
from kdbench.methods.zoo.kd import kd_loss
from kdbench.methods.zoo.nd import ND, norm_and_direction
from kdbench.methods.zoo.norm import Rescale
from kdbench.methods.zoo.ofd import margins, partial_distance
from kdbench.methods.zoo.reviewkd import Fusion, context_loss
from kdbench.methods.zoo.wkd_f import gaussian_distance, moments
from kdbench.models.factory import create
from kdbench.models.network import Network
from kdbench.models.outputs import PARTS, DataSpec, NetworkSpec, Outputs

LOGIT = ["sdd_kd", "sdd_dkd", "sdd_nkd"]
NAMES = ["srrl", "simkd", "ijckd", "cat_kd", "reviewkd", "semckd", "ofd", "wkd_f", "nd", "norm", *LOGIT]
#: Not all: a batch or a grid of another size does not fit the fake networks; both have tests of their own.
#: SRRL is trained alike whichever head it deploys (tests/test_features.py).
KNOBS = [
    (name, knob)
    for name in NAMES
    for knob in METHODS.get(name).hyperparameters
    if knob not in ("batch", "grid") and (name, knob) != ("srrl", "head")
]
quick = settings(max_examples=20)
seeds = st.integers(0, 2**16)
X = torch.rand(4, 3, 16, 16, generator=rng(5))


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng(seed)).double()


def same(a: Tensor, b: Tensor, rel: float = 1e-9, floor: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, rtol=rel, atol=floor)


def pair() -> tuple[Outputs, Outputs]:
    return fake_outputs(11), fake_outputs(12, widths=TEACHER_WIDTHS)


def real(name: str, **overrides: object) -> tuple[Method, Network, NetworkSpec]:
    """The method between real networks in eval mode, its batch norms with statistics of their own."""
    torch.manual_seed(3)
    made = {"classes": 10, "image_shape": (3, 16, 16), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    student, teacher = (create(model, **made).eval() for model in ("tiny_cnn_s", "tiny_cnn_m"))
    specs = student.spec("tiny_cnn_s", (3, 16, 16)), teacher.spec("tiny_cnn_m", (3, 16, 16))
    spec = METHODS.get(name)
    data = DataSpec("fake", 10, 64, (3, 16, 16), torch.arange(64) % 10, 8)
    method = load_class(spec).build(spec, spec.config("", overrides, "test"), *specs, data)
    for module in method.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            module.bias.data.normal_()
    return method.eval(), student, specs[1]


@pytest.mark.parametrize(("name", "knob"), KNOBS)
def test_every_hyper_parameter_changes_the_loss(name, knob):
    it = METHODS.get(name).hyperparameters[knob]
    if it.choices:
        other = next(choice for choice in it.choices if choice != it.default)
    elif it.type == "bool":
        other = not it.default
    else:
        other = it.default + 1 if it.type == "int" or not it.default else it.default / 2
    epoch = 190 if knob == "decay_start" else 12
    more = {"ce_weight": 1.0} if (name, knob) == ("simkd", "head") else {}  # its labels teach nothing by default
    before, after = (total(run(name, *pair(), epoch=epoch, **more, **{knob: value})) for value in (it.default, other))
    assert not torch.isclose(before, after, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_students_classifier_is_trained_once(name):
    spec = METHODS.get(name)
    student, teacher = pair()
    own, taught = fake_network("student", student), fake_network("teacher", teacher)
    config = spec.config("", {}, "test")
    method = load_class(spec).build(spec, config, own, taught, DataSpec("fake", 10, 64, (3, 8, 8), torch.arange(64), 8))
    trained = {id(p) for group in method.parameter_groups() for p in group.parameters}
    assert not trained & {id(p) for network in (own, taught) for p in network.module.parameters()}


def test_features_that_are_the_teachers_already_cost_nothing():
    student, teacher = pair()
    method, head = build("srrl", student, teacher), fake_network("teacher", teacher).head
    features = method.connect(student.pooled_map).detach().mean((2, 3))
    terms = method.loss(make_step(student, Outputs(head(features).detach(), pooled=features), teacher_head=head))
    same(terms["feature"], torch.zeros(()).double())
    same(terms["logit"], torch.zeros(()).double())
    assert terms["ce"] > 0


@pytest.fixture(
    scope="module",
    params=[("resnet8x4", "shufflenetv2_cifar"), ("vgg8", "mobilenetv2_cifar"), ("mobilenetv2_cifar", "resnet8")],
    ids=":".join,
)
def uneven(request: pytest.FixtureRequest) -> tuple[Network, Network]:
    """A teacher and a student, one of which has another convolution between its last stage and its classifier."""
    torch.manual_seed(5)
    made = {"classes": 10, "image_shape": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}
    teacher, student = (create(name, **made) for name in request.param)
    return teacher.eval().requires_grad_(False), student


@pytest.mark.parametrize("name", ["simkd", "cat_kd", *LOGIT, "norm", "srrl", "ijckd"])
def test_a_step_where_a_convolution_follows_the_last_stage(name, uneven):
    teacher, student = uneven
    spec, parts = METHODS.get(name), METHODS.get(name).needs & PARTS
    own, taught = student.spec("student", (3, 32, 32)), teacher.spec("teacher", (3, 32, 32))
    data = DataSpec("fake", 10, 64, (3, 32, 32), torch.arange(64) % 10, 2)
    config = spec.config("", {"copies": 1} if name == "norm" else {}, "test")
    method = load_class(spec).build(spec, config, own, taught, data)
    x = torch.rand(2, 3, 32, 32, generator=rng(6))
    with torch.no_grad():
        seen = teacher(x, parts)
        deployed = method.deployed(student).eval()(x)
    step = make_step(student(x, parts), seen, teacher_head=taught.head)
    terms = method.loss(step)
    student.zero_grad()
    torch.stack([terms[term] for term, role in spec.terms.items() if role == "distill"]).sum().backward()
    last = [p for name, p in student.body.named_parameters() if "conv2" in name.split(".")[0]]
    taken = [p for p in student.parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert all(value.isfinite() for value in terms.values())
    assert taken
    assert all(any(p is t for t in taken) for p in last) == (name not in ("simkd", "ijckd") or not last)
    assert deployed.logits.shape == (2, 10)


@torch.no_grad()
def test_a_classifier_on_the_map_it_pools_averages_to_the_logits(uneven):
    for network in uneven:
        out = network.eval()(torch.rand(2, 3, 32, 32, generator=rng(6)), frozenset({"pooled_map"}))
        same(on_map(network.head, out.pooled_map).mean((2, 3)), out.logits, 1e-4, 1e-5)


@pytest.mark.parametrize("name", ["simkd", "ijckd"])
def test_what_is_deployed_ends_in_the_teachers_classifier_and_has_no_other(name):
    method, student, teacher = real(name)
    with torch.no_grad():
        last = student(X, frozenset({"stages"})).stages[-1]
        features = method.projector(method.shrink(last)).mean((2, 3))
        network = method.deployed(student).eval()
        same(network(X).logits, teacher.head(features), 1e-5, 1e-6)
    want = parameters(student) - parameters(student.head) + parameters(method.projector) + parameters(teacher.head)
    assert parameters(network) == want
    assert student(X).logits.shape == (4, 10)


def test_norm_folds_into_the_classifier_at_no_cost():
    method, student, _ = real("norm")
    with torch.no_grad():
        maps = student(X, frozenset({"stages"})).stages[-1]
        logits = student.head((maps + method.contract(method.expand(maps))).mean((2, 3)))
        network = method.deployed(student).eval()
        same(network(X).logits, 2.5 * F.layer_norm(logits, (10,), eps=1e-7), 1e-4, 1e-5)
    assert parameters(network) == parameters(student)
    assert method.expand[0].weight.dtype == torch.float32


@quick
@given(seeds, st.floats(0.5, 50), st.floats(-50, 50))
def test_norm_sees_no_shift_and_no_scale_of_the_logits(seed, scale, shift):
    z = normal(seed, 4, 9)
    same(Rescale(2.5)(scale * z + shift), Rescale(2.5)(z), 1e-4)


def test_norm_compares_every_copy_with_the_whole_teacher():
    student, teacher = pair()
    method = build("norm", student, teacher, copies=3)
    copies = method.expand(student.pooled_map).detach().unflatten(1, (3, 12))
    want = (copies - teacher.stages[-1][:, None]).square().sum(1).mean()
    same(method.loss(make_step(student, teacher))["norm"], want)


@quick
@given(seeds, st.sampled_from([1, 2, 4]))
def test_class_activation_maps_average_to_the_logits_without_their_bias(seed, resolution):
    torch.manual_seed(seed)
    head, maps = nn.Linear(5, 7).double(), normal(seed, 3, 5, 4, 4)
    found = activation_maps(head, maps, resolution)
    assert found.shape == (3, 7, resolution, resolution)
    same(found.mean((2, 3)), head(maps.mean((2, 3))) - head.bias)


def test_normalised_cat_ignores_the_scale_of_the_students_maps():
    student, teacher = pair()
    larger = replace(student, pooled_map=7 * student.pooled_map)
    for normalise in (True, False):
        plain, scaled = (run("cat_kd", s, teacher, normalise=normalise)["cat"] for s in (student, larger))
        assert torch.isclose(plain, scaled, rtol=1e-9) == normalise
    small = replace(student, pooled_map=1e-9 * student.pooled_map)
    same(run("cat_kd", small, teacher, normalise=True)["cat"], run("cat_kd", student, teacher, normalise=True)["cat"])


@quick
@given(seeds, st.integers(1, 9), st.floats(-3, 3))
def test_context_loss_of_a_constant_difference_is_its_square(seed, side, offset):
    maps = normal(seed, 2, 3, side, side)
    same(context_loss(maps + offset, maps), torch.tensor(offset, dtype=torch.float64).square())


@pytest.mark.parametrize("size", [2, 4, 8, 5])
def test_review_fuses_to_the_teachers_shape(size):
    fusion = Fusion(3, 6, (5, size, size), deepest=False)
    output, residual = fusion(torch.rand(2, 3, 4, 4), torch.rand(2, 6, 2, 2))
    assert output.shape == (2, 5, size, size)
    assert residual.shape == (2, 6, size, size)


def test_semckd_with_flat_attention_is_the_mean_distance():
    student, teacher = pair()
    flat = run("semckd", student, teacher, soft=1e12, weight=1.0)["feature"]
    method = build("semckd", student, teacher)
    wanted = []
    for s, row in zip(student.stages, method.projectors, strict=True):
        for t, projector in zip(teacher.stages, row, strict=True):
            size = min(s.shape[2], t.shape[2])
            small, target = F.adaptive_avg_pool2d(s, size), F.adaptive_avg_pool2d(t, size)
            wanted.append(F.mse_loss(projector(small), target))
    same(flat, torch.stack(wanted).mean())


def test_ofd_margins_are_the_mean_of_the_negative_part():
    norm = nn.BatchNorm1d(5)
    mean, deviation = torch.tensor([0.0, 1.0, -2.0, 0.5, 9.0]), torch.tensor([1.0, -0.5, 0.3, 2.0, 1.0])
    norm.load_state_dict(norm.state_dict() | {"bias": mean, "weight": deviation})
    found = margins(norm)
    for m, s, margin in zip(mean.tolist(), deviation.abs().tolist(), found.tolist(), strict=True):
        want = truncnorm.mean(-torch.inf, -m / s, m, s) if m < 9 else -3 * s
        assert margin == pytest.approx(want, rel=1e-6)
    norm.load_state_dict(norm.state_dict() | {"weight": torch.zeros(5)})
    assert (margins(norm) <= 0).all()


@quick
@given(seeds)
def test_ofd_leaves_the_student_alone_below_a_negative_teacher(seed):
    teacher, margin = -normal(seed, 2, 3, 4, 4).abs(), torch.full((3,), -0.5).double()
    below = torch.maximum(teacher, margin[:, None, None]) - normal(seed + 1, 2, 3, 4, 4).abs()
    assert partial_distance(below, teacher, margin) == 0
    same(partial_distance(below, -teacher, margin), (below + teacher).square().sum() / 2)
    assert partial_distance(-below, teacher, margin) > 0


@quick
@given(seeds, st.floats(1, 8))
def test_sdd_of_the_whole_alone_is_the_undivided_method(seed, t):
    torch.manual_seed(seed)
    head, maps, others = nn.Linear(5, 7).double(), normal(seed, 3, 5, 8, 8), normal(seed + 1, 3, 5, 8, 8)
    z, v = (cell_logits(head, m, 1)[:, 0] for m in (maps, others))
    same(z, head(maps.mean((2, 3))))
    own = load_class(METHODS.get("sdd_kd"))(METHODS.get("sdd_kd"), {"temperature": t})
    y = torch.arange(3)
    same(own.cell_loss(z, v, y).mean(), kd_loss(z, v, t))
    decoupled = load_class(METHODS.get("sdd_dkd"))(
        METHODS.get("sdd_dkd"), {"temperature": t, "alpha": 1.0, "beta": 0.0}
    )
    p, q = (F.softmax(logits / t, 1)[y, y] for logits in (v, z))
    binary = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    same(decoupled.cell_loss(z, v, y), t**2 * binary, 1e-7)


def test_sdd_counts_cells_that_contradict_the_whole_twice():
    y = torch.tensor([0, 0])
    v = torch.zeros(2, 4, 3)
    v[0, :, 0] = 1  # right about the whole ...
    v[0, 2, 1] = 2  # ... but not about the third cell
    v[1, :, 2] = 1  # wrong about the whole ...
    v[1, 1, 0] = 2  # ... but not about the second cell
    assert consistency(v, y).tolist() == [[1, 1, 2, 1], [1, 2, 1, 1]]
    assert cell_logits(nn.Linear(5, 3), torch.rand(2, 5, 2, 2), 3).shape == (2, 21, 3)


@quick
@given(seeds, st.integers(2, 9), st.integers(1, 4))
def test_wasserstein_moments_are_those_of_the_cells_and_forget_the_order_within(seed, side, grid):
    if side < 2 * grid:
        grid = 1
    maps = normal(seed, 2, 3, side, side)
    mean, deviation = moments(maps, grid)
    same(mean, F.adaptive_avg_pool2d(maps, grid).flatten(2))
    shuffled = maps.flatten(2)[:, :, torch.randperm(side**2, generator=rng(seed))].view_as(maps)
    same(gaussian_distance(maps, shuffled, 4.0, 1), torch.zeros(()).double(), floor=1e-20)
    shift = normal(seed + 1, 1, 3, 1, 1)
    same(gaussian_distance(maps + shift, maps, 4.0, grid), 4 * shift.square().sum())
    assert (deviation > 0).all()


def test_wasserstein_weight_falls_to_half_half_way_through_its_decay():
    first, half = (run("wkd_f", *pair(), epoch=epoch, decay_start=120.0)["wasserstein"] for epoch in (100, 181))
    same(half, first / 2)


@quick
@given(seeds, st.floats(0.1, 10), st.floats(1, 5))
def test_nd_rewards_direction_and_length(seed, length, longer):
    centre = F.normalize(normal(seed, 3, 6))
    other = F.normalize(normal(seed + 1, 3, 6))
    across = F.normalize(other - (other * centre).sum(1, keepdim=True) * centre)
    zero = torch.zeros(()).double()
    same(norm_and_direction(length * longer * centre, length * across, 9 * centre), zero)
    same(norm_and_direction(length * across, length * centre, centre), zero + 1)
    same(norm_and_direction(length * centre, length * longer * across, centre), zero + 1 - 1 / longer)


def test_nd_gives_the_student_all_of_the_gradient_where_it_is_as_long_as_the_teacher():
    s, centres = normal(1, 3, 6).requires_grad_(), normal(2, 3, 6)
    got, want = norm_and_direction(s, s.detach(), centres), (1 - F.cosine_similarity(s, centres)).mean()
    same(got, want)
    same(*(torch.autograd.grad(loss, s)[0] for loss in (got, want)))


def test_nd_sees_no_scale_however_small_and_is_finite_where_both_are_nothing():
    s, t, centres = normal(1, 3, 6), normal(2, 3, 6), normal(3, 3, 6)
    same(norm_and_direction(1e-9 * s, 1e-9 * t, centres), norm_and_direction(s, t, centres))
    zero = torch.zeros(3, 6).double().requires_grad_()
    norm_and_direction(zero, torch.zeros(3, 6).double(), centres).backward()
    assert zero.grad.abs().max() <= 1


def test_nd_centres_are_the_class_means_over_all_batches():
    spec = METHODS.get("nd")
    method = ND(spec, spec.config("", {}, "test"))
    student, teacher = fake_outputs(1), fake_outputs(2, n=20)
    data = DataSpec("fake", 10, 20, (3, 8, 8), torch.arange(20) % 3, 8)
    method.setup(fake_network("student", student), fake_network("teacher", teacher), data)
    y, features = torch.arange(20) % 3, teacher.pooled.detach()
    batches = [(Outputs(teacher.logits, pooled=features[part]), y[part], part) for part in torch.arange(20).split(7)]
    method.prepare(lambda: iter(batches))
    for k in range(3):
        same(method.centres[k], features[y == k].mean(0).float(), 1e-6)
    assert (method.centres[3:] == 0).all()
    assert isinstance(method.embed, nn.Identity)


def test_a_pair_for_which_a_method_is_not_defined_is_one_sentence():
    student, teacher = pair()
    two = replace(student, stages=student.stages[:2], preacts=student.preacts[:2])
    for name in ("simkd", "ijckd", "cat_kd", "sdd_kd"):
        with pytest.raises(UserError, match=f"{name}: the 12 features that the classifier of teacher reads are not"):
            run(name, student, replace(teacher, pooled_map=None))
    for name in ("cat_kd", "sdd_kd", "norm", "srrl"):
        with pytest.raises(UserError, match=f"{name}: the 8 features that the classifier of student reads are not"):
            run(name, replace(student, pooled_map=None), teacher)
    assert run("srrl", replace(student, pooled_map=None), teacher, connector="pooled")["feature"] > 0
    with pytest.raises(UserError, match="reviewkd: student has 2 stages and teacher has 3"):
        run("reviewkd", two, teacher)
    for name in ("simkd", "ijckd"):
        with pytest.raises(UserError, match=f"{name}: factor 13 leaves none of teacher's 12 channels"):
            run(name, student, teacher, factor=13)
    with pytest.raises(UserError, match=r"wkd_f: a grid of 2 leaves cells of one position on teacher's 2x2 map"):
        run("wkd_f", student, teacher, grid=2)
    large = replace(teacher, stages=(*teacher.stages[:-1], torch.rand(8, 12, 3, 3).double()))
    with pytest.raises(UserError, match=r"wkd_f: no projector leads from the student's 2x2 map to the teacher's 3x3"):
        run("wkd_f", student, large)
    with pytest.raises(UserError, match=r"norm: the last maps of student and teacher are 2x2 and 3x3"):
        run("norm", student, large)
    with pytest.raises(UserError, match="ofd: the stages of teacher do not each end in one batch norm"):
        run("ofd", student, replace(teacher, preacts=()))
