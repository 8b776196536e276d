"""One student in training: its network, method and optimiser, one step at a time, resumable at any of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdbench.data import Dataset
from kdbench.errors import NotApplicable
from kdbench.methods import METHODS, load_class
from kdbench.methods.base import ApartOptimiser, Method, Phase, Step, Sweep, View
from kdbench.models.composed import Composed
from kdbench.models.factory import create
from kdbench.models.network import Network
from kdbench.models.outputs import PARTS, DataSpec, NetworkSpec, Outputs
from kdbench.models.precision import in_precision
from kdbench.train.batches import Batch, Batches
from kdbench.train.compiling import compiled
from kdbench.train.crew import is_ours, self_contained
from kdbench.train.optimiser import make_optimiser
from kdbench.train.rate import learning_rate
from kdbench.train.scoring import Diverged, Figures, Scoring
from kdbench.train.seeds import derive, seeded
from kdbench.train.stopwatch import Stopwatch
from kdbench.train.taught import Taught
from kdbench.trials.trial import Trial

#: Steps between two looks at whether the loss is still finite: a look waits for the device.
FINITE_EVERY = 50


class Member:
    """One student of a cohort. All its randomness comes from (seed, stream), all its state is in ``state()``.

    ``position`` is the 0-based step of the main training that comes next; phases before it count up to 0 from below, so
    that members with and without phases share the batches of the main training. ``initial``: the weights of its network
    that are not drawn.
    """

    def __init__(
        self,
        trial: Trial,
        dataset: Dataset,
        batches: Batches,
        device: torch.device,
        teacher: NetworkSpec | None = None,
        teacher_logits: Tensor | None = None,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.trial, self.batches, self.device = trial, batches, device
        self.root = (trial.seed, trial.stream)
        self.spec = METHODS.get(trial.method)
        #: The parts of student's and teacher's Outputs that the method asks for.
        self.parts = self.spec.needs & PARTS
        #: Whether all of its code is kdbench's: who else's it is works on copies of what the cohort shares.
        self.ours = is_ours(trial)
        taught = teacher if self.spec.needs_teacher else None
        #: Of foreign code: who changes his teacher, for however short a time, changes nobody else's.
        self.own_teacher: nn.Module | None = None
        if taught is not None and not self.ours:
            taught = copy.deepcopy(taught)
            self.own_teacher = taught.module
        shape, classes, norm = dataset.spec.image_shape, dataset.spec.classes, trial.normalisation
        with seeded(*self.root, "student"):
            self.network: Network = create(
                trial.student, classes=classes, image_shape=shape, mean=norm.mean, std=norm.std, build=trial.build
            )
        if initial:  # what the file lacks stays as it was drawn
            self.network.body.load_state_dict(initial, strict=False)
        self.network.to(device, memory_format=torch.channels_last)
        with seeded(*self.root, "method"):
            data = DataSpec(
                dataset.spec.name, classes, len(batches.labels), shape, batches.labels.clone(), trial.protocol.batch
            )
            student = self.network.spec(trial.student, shape)
            for spec in (student, taught) if taught else (student,):
                _check_maps(spec, self.parts)
            self.method: Method = load_class(self.spec).build(self.spec, trial.config, student, taught, data)
        self.method.to(device)
        self.see = compiled(in_precision(self.network, trial.protocol.precision), trial.protocol.compile)
        #: Batch sizes seen in this process, by whether the student trained on them: each is compiled by itself.
        self._kinds: set[tuple[int, bool]] = set()
        #: Whether it may be stepped beside others (kdbench.train.crew).
        self.self_contained = not trial.protocol.compiled_by_torch and self_contained(trial, self.network, self.method)
        self.teacher_head = taught.head if taught is not None and "teacher_head" in self.spec.needs else None
        self.network.train()
        self.method.train()
        applies = self.spec.applies
        self.smallest_batch = trial.protocol.batch if applies.full_batch else applies.min_batch
        if len(batches.train) < self.smallest_batch:
            raise NotApplicable(
                f"It learns from batches of {self.smallest_batch} images or more, and there are {len(batches.train)} "
                "training images: give the protocol a smaller batch."
            )
        #: (first step, epochs, phase) of each phase; the last one ends where step 0 begins.
        self.timetable = self._timetable()
        self.optimiser, self.rates = make_optimiser(self.method, self.network, trial.protocol)
        logits = teacher_logits if taught is not None else None
        self.scoring = Scoring(dataset, batches.val, trial.protocol.epochs, device, logits, batches.left_out)
        #: Where this training starts: below 0 by the steps of its phases.
        self.first = self.timetable[0][0] if self.timetable else 0
        self.position = self.first
        self.watch = Stopwatch(device)
        self.images = 0
        self.resumed = 0
        #: Of ``seconds`` and ``images``, what an earlier process counted.
        self._earlier = (0.0, 0)
        #: The deployed network's weights of the best epoch on held-out images, where that ranks.
        self._best: dict[str, Tensor] | None = None

    def _timetable(self) -> list[tuple[int, int, Phase]]:
        table: list[tuple[int, int, Phase]] = []
        end = 0
        for phase in reversed(self.method.phases()):
            if not isinstance(phase, Phase):
                raise ValueError(f"method {self.spec.name!r}: phases must return Phases, not {type(phase).__name__}")
            epochs = phase.epochs(self.trial.protocol.epochs)
            end -= epochs * self.batches.steps_per_epoch
            table.insert(0, (end, epochs, phase))
        return table

    def prepare(self, sweep: Sweep) -> None:
        """Let the method look at the whole training set, before the first step of a training that is not resumed."""
        with seeded(*self.root, "prepare"):
            self.method.prepare(sweep)

    @property
    def seconds(self) -> float:
        """Of its own work so far: forward pass, loss, backward pass and update."""
        return self.watch.seconds

    @property
    def seconds_an_image(self) -> float | None:
        """In this process alone, where others are timed beside it; None where it has trained on nothing."""
        images = self.images - self._earlier[1]
        return (self.seconds - self._earlier[0]) / images if images else None

    @property
    def deployed(self) -> nn.Module:
        """The network that is scored and counted."""
        return self.method.deployed(self.network)

    def shown(self, network: nn.Module) -> nn.Module:
        """What computes ``network``, its deployed one, where that is scored: itself."""
        return network

    @property
    def phase(self) -> tuple[int, int, Phase] | None:
        """The phase of the next step, None in the main training."""
        found = None
        for entry in self.timetable:
            if entry[0] <= self.position < 0:
                found = entry
        return found

    def step(self, batch: Batch, taught: Taught | None) -> None:
        """Train on ``batch``, the batch of ``self.position``. Diverged when the loss is seen not to be finite."""
        began = self.watch.mark()
        compiling = self._compiled(len(batch.y))
        trained = len(batch.y) if len(batch.y) >= self.smallest_batch else 0
        if trained:
            self._train(batch, taught)
        self.position += 1
        if self.position % FINITE_EVERY == 0 and not self.scoring.sums.finite():
            raise Diverged(self._epoch_of(self.position - 1))
        if self.position == 0:  # the main training starts with an optimiser that has seen nothing
            self.optimiser, self.rates = make_optimiser(self.method, self.network, self.trial.protocol)
        if not compiling:
            self.watch.add(began)
            self.images += trained

    def _compiled(self, size: int) -> bool:
        """Whether the next step is the first of its kind on ``size`` images in this process, so that it compiles."""
        phase = self.phase
        kind = (size, phase is None or phase[2].student)
        new = self.trial.protocol.compiled_by_torch and kind not in self._kinds
        self._kinds.add(kind)
        return new

    def _train(self, batch: Batch, taught: Taught | None) -> None:
        if not self.self_contained:
            self._seed()
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = self._rounded(self._scheduled(rate.base, self.phase) * rate.multiple)
        self.scoring.sums.add(self.learn(batch, taught), len(batch.y))

    def _rounded(self, rate: float) -> float:
        """On a GPU as float32 has it, for an optimiser in a CUDA graph reads its rate from such a tensor."""
        return rate if self.device.type == "cpu" else torch.tensor(rate, dtype=torch.float32).item()

    def learn(self, batch: Batch, taught: Taught | None) -> Figures:
        """What of a step the device does: forward pass, loss, backward pass and update."""
        phase = self.phase
        outputs, views = self.forward(batch, phase)
        step = self.make_step(batch, outputs, taught, phase, views)
        terms = self.method.loss(step) if phase is None else phase[2].loss(step)
        self.check_terms(terms)
        frozen = () if phase is None or phase[2].method else tuple(self.method.parameters())
        self._descend(terms, frozen)
        return Figures.of(terms, outputs.logits, batch.y)

    def _seed(self) -> None:
        """Set torch's global generator, which dropout and the like draw from.

        It is set anew for every step, so that neither the company in the cohort nor a resume can change what a student
        draws.
        """
        seed = derive(*self.root, "step", self.position) & 0x7FFF_FFFF_FFFF_FFFF
        torch.default_generator.manual_seed(seed)  # torch.manual_seed looks at every device first
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _descend(self, terms: Mapping[str, Tensor], frozen: Sequence[nn.Parameter]) -> None:
        """The step of the optimiser; ``frozen`` parameters stay."""
        if isinstance(self.optimiser, ApartOptimiser):
            roles = self.spec.terms
            distill = self._gradients([terms[term] for term in terms if roles[term] == "distill"], frozen, keep=True)
            self._gradients([terms[term] for term in terms if roles[term] == "task"], frozen)
            self.optimiser.step_apart(distill)
        else:
            self._gradients(list(terms.values()), frozen)
            self.optimiser.step()

    def _gradients(
        self, terms: list[Tensor], frozen: Sequence[nn.Parameter], *, keep: bool = False
    ) -> dict[nn.Parameter, Tensor]:
        """Gradients of the sum of ``terms``, left in the parameters; ``keep``: the graph is needed once more."""
        self.optimiser.zero_grad(set_to_none=True)
        if terms:
            torch.stack(terms).sum().backward(retain_graph=keep)
        for parameter in frozen:
            parameter.grad = None
        every = (parameter for group in self.optimiser.param_groups for parameter in group["params"])
        return {parameter: parameter.grad for parameter in every if parameter.grad is not None}

    def _scheduled(self, base: float, phase: tuple[int, int, Phase] | None) -> float:
        """The rate of this step where the optimiser was made with ``base``."""
        if phase is not None:
            return base * phase[2].rate
        return learning_rate(self.trial.protocol, self.position, self.batches.steps_per_epoch, base)

    @property
    def rate(self) -> float:
        """The learning rate of the last step, of the group that the student's first parameter is in."""
        first = next(parameter for parameter in self.network.parameters() if parameter.requires_grad)
        groups = self.optimiser.param_groups
        return next(float(group["lr"]) for group in groups if any(held is first for held in group["params"]))

    def forward(self, batch: Batch, phase: tuple[int, int, Phase] | None = None) -> tuple[Outputs, dict[str, Outputs]]:
        """The student's Outputs of ``batch`` and of the views of it that its method sees."""
        if phase is None or phase[2].student:
            return self._see(batch)
        self.network.eval()
        with torch.no_grad():
            outputs = self._see(batch)
        self.network.train()
        return outputs

    def _see(self, batch: Batch) -> tuple[Outputs, dict[str, Outputs]]:
        norms = self.spec.views
        joint = [name for name in norms if norms[name] == "joint"]
        if joint:
            images = torch.cat([batch.x, *(batch.views[name] for name in joint)])
            outputs, *others = self.see(images, self.parts).split(len(batch.y))
        else:
            outputs, others = self.see(batch.x, self.parts), []
        views = dict(zip(joint, others, strict=True))
        views |= {name: self.see(batch.views[name], self.parts) for name in norms if name not in joint}
        return outputs, views

    def _epoch_of(self, position: int) -> int:
        """The 1-based epoch of a step: of the main training, or of the phase that the step belongs to."""
        first = max((start for start, _, _ in self.timetable if start <= position < 0), default=0)
        return (position - first) // self.batches.steps_per_epoch + 1

    def make_step(
        self,
        batch: Batch,
        outputs: Outputs,
        taught: Taught | None,
        phase: tuple[int, int, Phase] | None,
        views: Mapping[str, Outputs],
    ) -> Step:
        """What the method's loss is given for ``batch``, the batch of ``self.position``.

        ``outputs`` and ``views`` are the student's, ``taught`` the teacher's.
        """
        seen = taught if self.spec.needs_teacher else None
        position = self.position
        first, epochs = (0, self.trial.protocol.epochs) if phase is None else phase[:2]

        def generator(purpose: str) -> torch.Generator:
            made = torch.Generator(self.device)
            made.manual_seed(derive(*self.root, "method", purpose, position) & 0x7FFF_FFFF_FFFF_FFFF)
            return made

        return Step(
            x=batch.x,
            y=batch.y,
            index=batch.index,
            student=outputs,
            teacher=None if seen is None else seen.outputs,
            teacher_head=self.teacher_head,
            epoch=self._epoch_of(position),
            epochs=epochs,
            progress=(position - first) / (epochs * self.batches.steps_per_epoch),
            generator=generator,
            views={
                name: View(batch.views[name], student, None if seen is None else seen.views[name])
                for name, student in views.items()
            },
            weak=batch.weak,
            candidates=batch.candidates,
        )

    def check_terms(self, terms: object) -> None:
        """ValueError unless ``terms`` are what the card declares; its text ends up on the record."""
        name, declared = self.spec.name, sorted(self.spec.terms)
        if not isinstance(terms, dict):
            raise ValueError(f"method {name!r}: loss must return its terms by name, not {type(terms).__name__}")
        if not terms or set(terms) - set(declared):
            raise ValueError(f"method {name!r}: loss returned the terms {sorted(terms)}, its card declares {declared}")
        for term, value in terms.items():
            if not isinstance(value, Tensor) or value.ndim != 0:
                raise ValueError(f"method {name!r}: the term {term!r} must be a scalar tensor")

    @property
    def scored(self) -> bool:
        """Whether the epoch that it is at the end of is one of the main training."""
        return self.position > 0

    @property
    def owes_epoch(self) -> bool:
        """Whether it is at the end of an epoch that was not closed, as it was stopped while it was scored."""
        epochs, inside = divmod(self.position, self.batches.steps_per_epoch)
        if inside:
            return False
        return len(self.scoring.curve) < epochs if self.scored else self.scoring.sums.samples > 0

    def check_epoch(self) -> None:
        """Diverged where the loss of the epoch just trained was not finite."""
        self.scoring.check(self._epoch_of(self.position - 1))

    def look(self, split: str, images: Tensor) -> None:
        """Let the network that is scored see the batch ``images``, the next of ``split``."""
        self.scoring.look(self.shown(self.deployed), split, images)

    def end_epoch(self, wall_seconds: float) -> dict[str, Any] | None:
        """Close the epoch just trained and return its point of the curve; None after an epoch of a phase."""
        epoch = self._epoch_of(self.position - 1)
        if not self.scored:
            self.scoring.close_phase_epoch(epoch)
            return None
        network = self.deployed
        own = network is self.network
        point = self.scoring.close_epoch(epoch, self.shown(network), self.rate, wall_seconds, trained_is_scored=own)
        if self.trial.protocol.selection == "best_val" and self.scoring.kept["best_val"][0] == epoch:
            self._best = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        return point

    @property
    def selected(self) -> Mapping[str, Tensor] | None:
        """The deployed network's weights of the epoch that ranks; None where a resume has not kept them."""
        return self._best if self.trial.protocol.selection == "best_val" else self.deployed.state_dict()

    def state(self) -> dict[str, Any]:
        """Everything a resume needs, as tensors and plain data (loads with ``weights_only=True``)."""
        return {
            "key": self.trial.key,
            "position": self.position,
            "seconds": self.seconds,
            "images": self.images,
            "resumed": self.resumed,
            "network": self.network.state_dict(),
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            **({} if self._best is None else {"best": self._best}),
            **self.scoring.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self.network.load_state_dict(state["network"])
        self.method.load_state_dict(state["method"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.position, self.images = state["position"], state["images"]
        self.watch = Stopwatch(self.device, state["seconds"])
        self._earlier = (state["seconds"], state["images"])
        self.resumed = state["resumed"] + 1
        self._best = state.get("best")
        self.scoring.restore(state)


def _check_maps(network: NetworkSpec, parts: frozenset[str]) -> None:
    """NotApplicable where ``parts`` has maps that ``network`` does not make: to one method, and not to the others."""
    there = {"stem": any(network.stem), "stages": bool(network.stages), "preacts": bool(network.preacts)}
    missing = sorted(part for part in parts & there.keys() if not there[part])
    if missing:
        raise NotApplicable(
            f"The model {network.name!r} has no {missing[0]}: it makes no maps; choose a method that needs none."
        )


def frozen_spec(network: Network | Composed, name: str, shape: tuple[int, int, int]) -> NetworkSpec:
    """A teacher as methods see it: eval mode, no gradients, in no optimiser."""
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    network.eval()
    return network.spec(name, shape)
