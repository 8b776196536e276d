"""A cohort in lockstep: every batch is made once, the teacher sees it once, each student trains on it in turn."""

from __future__ import annotations

import copy
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import nn

from kdbench.data.decoders import pieces_of
from kdbench.data.files import ImageFiles
from kdbench.errors import NotApplicable, described, out_of_memory, reason
from kdbench.folders import clear_leftovers
from kdbench.measure.cost import held_memory
from kdbench.measure.evaluate import EVALUATION_BATCH
from kdbench.methods.base import Sweep
from kdbench.models.outputs import Outputs
from kdbench.train import checkpoint, global_state
from kdbench.train.batches import Batch, Batches
from kdbench.train.crew import Crew
from kdbench.train.device import nobodys
from kdbench.train.landing import Landing
from kdbench.train.member import Member
from kdbench.train.pace import Pace
from kdbench.train.pulse import Pulse, Stopped
from kdbench.train.remembered import Remembered
from kdbench.train.scoring import SPLITS, Diverged
from kdbench.train.stopwatch import Stopwatch
from kdbench.train.taught import Taught, teach

#: A batch, and what the teacher says of it.
Shared = tuple[Batch, Taught | None]

#: Seconds between two progress events.
PROGRESS_EVERY = 1.0
#: Steps after which a process holds about as much memory as ever, and the part of that by which more is told of.
FIRST_STEPS = 3
GROWN = 1.1


@dataclass
class Outcome:
    """How a member's training ended: finished, diverged or crashed, and in words."""

    status: str
    detail: str = ""


@dataclass
class Saver:
    """Where and how often the members' states are saved."""

    folder: Path
    every: float
    numerics: dict[str, Any]
    say: Callable[[str], None] = print
    _last: float = field(default_factory=time.monotonic)
    _failed: set[str] = field(default_factory=set)
    _told: bool = False

    def __post_init__(self) -> None:
        clear_leftovers(self.folder)

    def path(self, member: Member) -> Path:
        return self.folder / f"{member.trial.key}.ckpt"

    def due(self) -> bool:
        return time.monotonic() - self._last >= self.every

    def save(self, members: Sequence[Member]) -> None:
        """Save each of ``members``; where that fails it is said, once, and costs what an interruption would."""
        for member in members:
            try:
                state = {**member.state(), "numerics": self.numerics}
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # other people's code
                self._not_saved(member, error)
                continue
            try:
                checkpoint.save(self.path(member), state)
            except OSError as error:
                self._full(error)
            except Exception as error:  # a state that cannot be written down
                self._not_saved(member, error)
        self._last = time.monotonic()

    def _full(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            self.say(
                f"no checkpoint can be written ({reason(error)}), so an interruption costs all since the last one: "
                "free some room; the training goes on, and tries again"
            )

    def _not_saved(self, member: Member, error: BaseException) -> None:
        if member.trial.key not in self._failed:
            self._failed.add(member.trial.key)
            self.say(
                f"{member.trial.title} cannot be saved, so an interruption would start it over: {described(error)}"
            )

    def restore(self, member: Member) -> bool:
        """Whether there was a state to go on from; whatever other people's code raises, the training starts over."""
        state = checkpoint.load(self.path(member), self.numerics)
        if state is None or state.get("key") != member.trial.key:
            return False
        fresh: dict[str, Any] | None = None
        try:
            fresh = copy.deepcopy(member.state())
            member.restore(state)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # left by another version of the code, or other people's
            if out_of_memory(error):
                raise
            traceback.print_exc()
            if fresh is not None:
                member.restore(fresh)
            member.resumed = 0
            return False
        return True

    def forget(self, member: Member) -> None:
        self.path(member).unlink(missing_ok=True)


@dataclass
class Lockstep:
    """Trains ``members`` to the end; each one's NaN or exception ends that one only."""

    members: list[Member]
    batches: Batches
    teacher: nn.Module | None
    saver: Saver
    pulse: Pulse
    on_end: Callable[[Member, Outcome], None]
    crew: Crew = field(default_factory=Crew)
    remembered: Remembered | None = None
    pace: Pace | None = None
    landing: Landing | None = None
    #: Members whose training goes on after that of the others, from where it was saved.
    put_off: list[Member] = field(default_factory=list)
    #: What the shared work was done for: its images, each as often as there were students to see it.
    shared_images: int = 0

    def __post_init__(self) -> None:
        self.shared_work = Stopwatch(self.batches.device)
        # The batch after may be under way while a batch is made again, and a hooked teacher hands out what any thread
        # that runs it computes.
        self._sharing = Lock()
        self._shown: set[Any] = set()
        self._held = 0
        self._unrecorded: Exception | None = None
        #: Members in the midst of whose work something was raised: their state is not whole.
        self._torn: set[Member] = set()
        for member in self.members:
            member.scoring.beat = self.pulse.beat

    def run(self) -> None:
        """Train to the end; then raise the first error that kept a member from being recorded, if there was one.

        Stopped where the worker is to end by then. As where memory runs out, each member is saved that is whole.
        """
        live: list[Member] = []
        try:
            with self.pulse.saving():
                self._run(live)
        finally:
            self.crew.close()
        if self._unrecorded is not None:
            raise self._unrecorded

    def _run(self, live: list[Member]) -> None:
        try:
            for member in self.members:
                if self.saver.restore(member) or self._began(member):
                    live.append(member)
            self._close_owed(live)
            if live:
                self._train(live)
        except BaseException as error:
            if isinstance(error, Stopped) or out_of_memory(error):
                self.saver.save([member for member in live if member not in self._torn])
            raise

    def _close_owed(self, live: list[Member]) -> None:
        """Close the epochs at whose end a worker has stopped."""
        owing = [member for member in live if member.owes_epoch]
        for position in sorted({member.position for member in owing}):
            self._close_epoch([member for member in owing if member.position == position], 0.0, position - 1, live)

    def _began(self, member: Member) -> bool:
        """Let its method look at the training set; False when that ended it."""
        ended = self._attempt(member, partial(member.prepare, self._sweep(member)))
        return ended is None or self._end(member, ended)

    def _train(self, live: list[Member]) -> None:
        epoch_began = progress_sent = time.monotonic()
        first = min(member.position for member in live)
        ahead: Future[Shared] | None = None
        for step in range(first, self.batches.total_steps):
            self.pulse.beat()
            due = [member for member in live if member.position == step]
            if not due:  # whoever it was made for has left
                ahead = None
            else:
                shared = self._share(step, due) if ahead is None else ahead.result()
                after = [member for member in live if member.position in (step, step + 1)]
                last = step + 1 == self.batches.total_steps
                ahead = None if last else self.crew.ahead(partial(self._share, step + 1, after))
                self._step(step, due, shared, live)
            now = time.monotonic()
            if (step + 1) % self.batches.steps_per_epoch == 0:
                self._close_epoch([member for member in due if member in live], now - epoch_began, step, live)
                epoch_began = time.monotonic()
            if self.landing is not None and live:
                self._put_off(self.landing.too_many(live, self.batches.total_steps - step - 1), live)
            if self.saver.due():
                self.saver.save(live)
            if now - progress_sent >= PROGRESS_EVERY and due:
                self._progress(step, now - epoch_began, [member for member in due if member in live])
                progress_sent = now
                self._tell_memory()
            if step + 1 - first == FIRST_STEPS:
                self._tell_memory()
            if not live:
                return
        self._finish(live)

    def _put_off(self, members: Sequence[Member], live: list[Member]) -> None:
        """Save ``members``, and go on without them."""
        if members:
            self.saver.save(members)
            self.put_off += members
            live[:] = [member for member in live if member not in members]

    def _step(self, step: int, due: Sequence[Member], shared: Shared, live: list[Member]) -> None:
        """One step of each of ``due`` and of the pace, those side by side that can be; who ends leaves ``live``."""
        company = [*due, *(() if self.pace is None else self.pace.on(step, due))]
        beside = self._beside(company)
        self._leave(
            live, beside, self.crew.each(lambda member: self._attempt(member, partial(_step, member, *shared)), beside)
        )
        for member in [member for member in company if member not in beside]:
            ended = self._attempt(member, partial(_step, member, *shared))
            if ended is not None:
                self._leave(live, [member], [ended])
                shared = self._share(step, due)  # whatever it did to this one, nobody else sees

    def _close_epoch(self, members: Sequence[Member], seconds: float, step: int, live: list[Member]) -> None:
        """Score ``members`` after an epoch that took ``seconds``; images in files are decoded once for all of them."""
        self._all(members, Member.check_epoch, live)
        for split in SPLITS:
            images = self.members[0].scoring.images(split)
            if not isinstance(images, ImageFiles):
                continue  # each student looks at them by itself
            for piece in pieces_of(images, EVALUATION_BATCH, self.batches.device):
                scored = [member for member in members if member.scored and member in live]
                if not scored:
                    break
                self._all(scored, partial(Member.look, split=split, images=piece), live)
        self._all(members, lambda member: member.end_epoch(seconds), live)
        self._look_around(live)
        for member in members:
            if step >= 0 and member in live:
                self._tell(member)

    def _look_around(self, live: list[Member]) -> None:
        """End all that run other people's code where some of it has replaced a function, say: none can be trusted."""
        foreign = [member for member in live if not member.ours]
        if foreign:
            ended = self._attempt(foreign[0], partial(global_state.left_alone, thorough=True))
            self._leave(live, foreign, [ended] * len(foreign))

    def _all(self, members: Sequence[Member], work: Callable[[Member], object], live: list[Member]) -> None:
        """``work`` done for those of ``members`` that are ``live``, side by side where that can be."""
        now = [member for member in members if member in live]
        beside = self._beside(now)
        self._leave(live, beside, self.crew.each(lambda member: self._attempt(member, partial(work, member)), beside))
        for member in now:
            if member not in beside:
                self._leave(live, [member], [self._attempt(member, partial(work, member))])

    def _attempt(self, member: Member, work: Callable[[], object]) -> Outcome | None:
        """Do ``work`` for ``member``; how it ended, None when it goes on."""
        self.pulse.beat()
        try:
            work()
        except Diverged as ended:
            return Outcome("diverged", f"{ended}.")
        except NotApplicable as error:
            return Outcome("inapplicable", str(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # other people's code: whatever it raises costs its own trial only
            self._torn.add(member)
            if nobodys(error):
                raise
            traceback.print_exc()
            if self.pulse.stopping:  # a compiler that was ended along with this process, say
                raise Stopped from error
            if member.device.type == "cuda":
                torch.cuda.synchronize(member.device)  # which raises where it was the GPU that failed
            return Outcome("crashed", described(error))
        return None

    def _beside(self, members: Sequence[Member]) -> list[Member]:
        """Those of ``members`` that threads may work on at once."""
        return [member for member in members if member.self_contained and self.crew.cores > 1]

    def _leave(self, live: list[Member], members: Sequence[Member], outcomes: Sequence[Outcome | None]) -> None:
        """Record those of ``members`` that ended, and go on without them."""
        for member, outcome in zip(members, outcomes, strict=True):
            if outcome is not None and member in live:
                live.remove(member)  # first, as it is not saved any more
                self._end(member, outcome)
            elif outcome is not None:  # the student that sets the pace, which has no record
                self.pace = None

    def _sweep(self, member: Member) -> Sweep:
        """What ``member``'s method may look at before its training: the teacher on every training image as it is."""

        def sweep() -> Iterator[tuple[Outputs, torch.Tensor, torch.Tensor]]:
            if self.teacher is None:
                return
            for batch in self.batches.plain(EVALUATION_BATCH):
                self.pulse.beat()
                yield teach(self.teacher, batch, member.parts).outputs, batch.y, batch.index

        return sweep

    def _finish(self, members: Sequence[Member]) -> None:
        """Record each finished member."""
        self.saver.save(members)
        for member in members:
            self.pulse.beat()
            self._end(member, Outcome("finished"))

    def _share(self, step: int, due: Sequence[Member]) -> Shared:
        """The batch of ``step`` and what the teacher says of it, made once for all."""
        with self._sharing:
            began = self.shared_work.mark()
            batch = self.batches.batch(step, _views(due))
            taught = None
            pupils = [member for member in due if member.spec.needs_teacher]
            parts = frozenset[str]().union(*(member.parts for member in pupils))
            if self.teacher is not None and pupils:
                taught = None if self.remembered is None else self.remembered.recall(batch, parts)
                taught = taught or teach(self.teacher, batch, parts, _views(pupils))
            if not self._compiled(len(batch.y), parts, _views(pupils)):
                self.shared_work.add(began)
                self.shared_images += len(batch.y) * len(due)
            return batch, taught

    def _compiled(self, *shown: object) -> bool:
        """Whether the teacher was ``shown`` such a batch for the first time, and its code made for it."""
        new = self.batches.protocol.compiled_by_torch and shown not in self._shown
        self._shown.add(shown)
        return new

    def _end(self, member: Member, outcome: Outcome) -> bool:
        """Record how ``member`` ended; False, as it does not go on.

        One that cannot be recorded (a full disk, say) keeps its checkpoint and does not stop the rest.
        """
        try:
            self.on_end(member, outcome)
        except Exception as error:
            traceback.print_exc()
            self._unrecorded = self._unrecorded or error
        else:
            self.saver.forget(member)
        return False

    def _tell(self, member: Member) -> None:
        """Emit the epoch just closed. Not a part of what is guarded: a parent that is gone is no fault of a method."""
        self.pulse({"event": "epoch", "key": member.trial.key, "title": member.trial.title, **member.scoring.curve[-1]})

    def _tell_memory(self) -> None:
        """Emit the memory that the process holds, at first and where it has grown."""
        held = held_memory(self.batches.device)
        if held > GROWN * self._held:
            self._held = held
            self.pulse({"event": "memory", "peak": held})

    def _progress(self, step: int, epoch_seconds: float, members: Sequence[Member]) -> None:
        done = step % self.batches.steps_per_epoch + 1
        first = min(member.first for member in self.members)
        sums = next((m.scoring.sums for m in members if m.scoring.sums.samples), None)
        loss = None if sums is None else sum(sums.means().values())
        self.pulse(
            {
                "event": "progress",
                "epoch": max(step // self.batches.steps_per_epoch + 1, 0),  # 0 in a phase before the main training
                "step": step + 1 - first,
                "steps": self.batches.total_steps - first,
                "loss": loss,
                "images_per_s": done * self.batches.protocol.batch * len(members) / max(epoch_seconds, 1e-9),
                "members": len(members),
            }
        )


def _views(members: Sequence[Member]) -> tuple[str, ...]:
    """The views that any of ``members`` sees."""
    return tuple(sorted({name for member in members for name in member.spec.views}))


def _step(member: Member, batch: Batch, taught: Taught | None) -> None:
    """One step of ``member``; ValueError when it changed what all members share, which would change their numbers.

    Foreign code is given copies: what it writes by ``.data`` or ``.numpy()`` is seen by no count of versions.
    """
    if not member.ours:
        batch, taught = batch.first(len(batch.y)), None if taught is None else taught.map(_copied)
    before = _versions(batch, taught)
    with torch.enable_grad():  # whatever mode a method leaves behind ends here
        member.step(batch, taught)
    if not member.ours:
        global_state.left_alone()
    if _versions(batch, taught) != before:
        raise ValueError("the method changed the batch or the teacher's outputs in place; let its loss work on copies")


def _copied(outputs: Outputs) -> Outputs:
    return outputs.map(torch.clone)


def _versions(batch: Batch, taught: Taught | None) -> list[int]:
    """How often each shared tensor was written to."""
    tensors = [*batch.tensors(), *([] if taught is None else taught.tensors())]
    return [tensor._version for tensor in tensors]
