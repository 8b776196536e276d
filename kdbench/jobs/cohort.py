"""A worker's main job: train the trials of one cohort and leave a record of each."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from kdbench.data import Dataset, load
from kdbench.environment import checkpoint_seconds
from kdbench.errors import UserError
from kdbench.jobs.clerk import Clerk
from kdbench.measure.cost import forget_peak
from kdbench.methods import METHODS
from kdbench.models.composed import Composed, changed
from kdbench.models.folding import folded
from kdbench.models.network import Network
from kdbench.models.outputs import NetworkSpec, Shape
from kdbench.models.precision import check_computes, in_precision
from kdbench.plan.speeds import Measured, Recipe, keep, reached, step_gflop
from kdbench.plan.task import Task
from kdbench.protocol import Protocol
from kdbench.records.store import Store
from kdbench.supervision import FULL
from kdbench.teachers.facts import TeacherShelf
from kdbench.teachers.ready import ReadyTeacher, ready_teacher, starting_weights
from kdbench.train.account import Account
from kdbench.train.batches import Batches
from kdbench.train.compiling import check_compiles, compiled
from kdbench.train.crew import Crew, Streams
from kdbench.train.device import nobodys, numerics, set_up
from kdbench.train.file_batches import make_batches
from kdbench.train.global_state import left_alone
from kdbench.train.graphs import ReplayedMember, ReplayedNetwork
from kdbench.train.landing import Landing
from kdbench.train.lockstep import Lockstep, Saver
from kdbench.train.member import Member, frozen_spec
from kdbench.train.pace import Pace
from kdbench.train.pulse import Pulse
from kdbench.train.remembered import Remembered, recalled_by, remember
from kdbench.train.room import Probe, Room, free_memory
from kdbench.trials.trial import Trial, teacher_identity

#: Seconds between two checkpoints, which is what a kill can cost, where the environment says nothing.
CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class _Common:
    """What all students of a cohort are given."""

    dataset: Dataset
    batches: Batches
    device: torch.device
    cores: int
    #: The teacher as the protocol runs it, and the same uncompiled.
    teacher: nn.Module | None
    eager: nn.Module | None
    spec: NetworkSpec | None
    teacher_logits: torch.Tensor | None
    initial: Mapping[str, torch.Tensor] | None
    remembered: Remembered | None

    def crew(self) -> Crew:
        if self.device.type == "cuda" and self.cores > 1:
            return Streams(self.device)
        return Crew(self.cores, self.batches.protocol.threads)


def train_cohort(
    task: Task, planned: Sequence[Trial], pulse: Pulse, on_finish: Callable[[Member], None] | None = None
) -> None:
    """Train those of the ``planned`` trials of ``task`` that have no record yet, or are to have another, in lockstep.

    Each one leaves a record, however it ends.

    ``on_finish`` sees each member that finished before it is let go: a teacher's training keeps its weights that way.
    """
    store = Store(task.results)
    done = store.done((trial.key for trial in planned), task.again) if on_finish is None else set()
    trials = [trial for trial in planned if trial.key not in done]
    if not trials:
        return
    pulse.patiently(partial(store.root.mkdir, parents=True, exist_ok=True), "the results folder")
    protocol = trials[0].protocol
    device = set_up(task.device, protocol.threads)
    forget_peak(device)
    check_computes(protocol.precision, device)
    check_compiles(protocol.compile, device)
    facts_of_machine = numerics(device)
    with pulse.at_work():
        dataset = planned_data(task)
    teacher: nn.Module | None = None
    spec: NetworkSpec | None = None
    taught: ReadyTeacher | None = None
    wanted = next((trial.teacher for trial in trials if trial.teacher), None)
    if wanted is not None:
        shelf = TeacherShelf(task.cache, wanted, task.dataset, task.data_digest, facts_of_machine)
        with pulse.at_work():
            taught = ready_teacher(shelf, wanted, dataset, device)
        teacher = taught.network
        spec = frozen_spec(teacher, wanted.model, dataset.spec.image_shape)
    first = trials[0]
    batches = make_batches(dataset, protocol, first.seed, first.stream, device, first.supervision, task.data_root)
    clerk = Clerk(task, store, dataset, facts_of_machine, taught, pulse, on_finish)
    cores = task.cores if device.type == "cpu" and not protocol.compiled_by_torch else 1
    if task.graphs and device.type == "cuda":
        cores = len(trials)  # each on a stream of its own
    eager: nn.Module | None = None
    if taught is not None:
        eager = changed(taught.network, partial(_under, protocol, taught.teacher.model, dataset.spec.image_shape))
        teacher = changed(eager, lambda network: compiled(network, protocol.compile))
        if task.graphs:
            teacher = changed(teacher, ReplayedNetwork)
        for each in (eager, teacher):
            if isinstance(each, Composed):
                each.study(dataset.train_labels[batches.train], batches.train, "train")
    remembered = None
    if teacher is not None and taught is not None and recalled_by(METHODS.get(trial.method) for trial in trials):
        recipe = teacher_identity(taught.teacher, task.dataset, task.data_digest)
        identity = [recipe, taught.facts.weights_sha256, task.data_digest, facts_of_machine]
        identity += [] if first.supervision == FULL else [first.supervision.identity(), first.supervision_sha256]
        remembered = remember(task.cache / "outputs", teacher, batches, identity, pulse.note, pulse.beat)
    logits_of_teacher = None if taught is None else taught.logits
    initial = None if first.init is None else starting_weights(first.init, dataset.spec, task.data_root)
    common = _Common(dataset, batches, device, cores, teacher, eager, spec, logits_of_teacher, initial, remembered)
    waiting: Sequence[Trial] = trials
    while waiting:
        waiting = _train_some(task, waiting, common, clerk)
        gc.collect()  # students refer to themselves in circles, and the next ones need their memory
        forget_peak(device)


def _under(protocol: Protocol, model: str, shape: Shape, network: Network) -> nn.Module:
    """The ``network`` of a teacher as ``protocol`` runs it, before it is compiled."""
    if protocol.fold:
        network = folded(network, model, shape)
    return in_precision(network, protocol.precision)


def planned_data(task: Task) -> Dataset:
    """The data set of ``task``. UserError where its content is not the one that the run was planned for."""
    dataset = load(task.dataset, task.data_root)
    if dataset.digest != task.data_digest:
        raise UserError(f"The data set {task.dataset} changed since the run was planned; start the run again.")
    return dataset


def _train_some(task: Task, waiting: Sequence[Trial], common: _Common, clerk: Clerk) -> Sequence[Trial]:
    """Train as many of the ``waiting`` as there is memory for; the rest of them.

    Nothing that it makes outlives it, so that the memory is there again for those.
    """
    members, rest = _admitted(task, waiting, common, clerk)
    if rest:
        clerk.pulse.note(f"there is memory for {len(members)} students at a time; {len(rest)} more follow them")
    if not members:
        return rest
    plain = any(member.trial.method == "ce" for member in members)
    lockstep = Lockstep(
        members,
        common.batches,
        common.teacher,
        Saver(
            task.cache / "checkpoints",
            checkpoint_seconds(CHECKPOINT_SECONDS),
            clerk.machine,
            clerk.pulse.note,
        ),
        clerk.pulse,
        lambda member, outcome: clerk.ended(member, outcome, account),
        common.crew(),
        common.remembered,
        None if plain else Pace(members[0].trial, common.dataset, common.batches, common.device),
        None if task.within is None else Landing(task.within),
    )
    account = Account(lockstep, common.dataset)
    lockstep.run()
    _keep_speed(task, members[0].trial, account)
    later = [member.trial for member in lockstep.put_off]
    if later:
        clerk.pulse.note(f"{len(later)} students would land too late beside the others, and follow them")
    return [*later, *rest]


def _keep_speed(task: Task, trial: Trial, account: Account) -> None:
    """Leave how fast this cohort was for the estimates of later plans."""
    paced = account.plain_pace()
    if paced is not None:
        (seconds, flops), batch = paced, trial.protocol.batch
        rate, recipe = reached(seconds, flops, batch), Recipe.of(trial.protocol)
        measured = Measured(trial.student, trial.dataset, recipe, step_gflop(flops, batch), rate)
        keep(task.cache / "costs", task.device, measured)


def _admitted(
    task: Task, waiting: Sequence[Trial], common: _Common, clerk: Clerk
) -> tuple[list[Member], Sequence[Trial]]:
    """Those of the ``waiting`` that there is memory for, built; and the rest."""
    probe = Probe(waiting, common.batches, common.eager)
    room = Room(free_memory(common.device, task.share), common.cores)
    members: list[Member] = []
    kind = ReplayedMember if task.graphs else Member
    while waiting and room.for_another():
        clerk.pulse.beat()
        trial, *waiting = waiting
        try:
            member = kind(
                trial,
                common.dataset,
                common.batches,
                common.device,
                common.spec,
                common.teacher_logits,
                common.initial,
            )
            if not member.ours:
                left_alone(thorough=True)
        except BaseException as error:  # a plugin that cannot be built costs its own trial only
            if nobodys(error):
                raise
            traceback.print_exc()
            clerk.failed(trial, error)
            continue
        members.append(member)
        room.add(member, probe)
    return members, waiting
