"""Specialists in training: each starts as the generalist, and sees as many images of its classes as of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from kdbench.composition.specialists import Specialists, clusters, dustbin_correction, joint_logits
from kdbench.errors import CheckpointError, UserError
from kdbench.measure.evaluate import EVALUATION_BATCH
from kdbench.models.composed import Composed, Told
from kdbench.models.factory import create
from kdbench.models.network import Network
from kdbench.models.precision import in_precision
from kdbench.teachers.making import Maker
from kdbench.teachers.weights import kept_weights, write_weights
from kdbench.train.batches import Batches
from kdbench.train.compiling import compiled
from kdbench.train.file_batches import make_batches
from kdbench.train.optimiser import SGD
from kdbench.train.pulse import Pulse
from kdbench.train.rate import learning_rate
from kdbench.train.seeds import seeded


class SpecialistsMaker(Maker):
    """Keeps ``sets.safetensors``, with the classes of each and what its dustbin's logit lacks, and a file for each."""

    def make(self, device: torch.device, data_root: Path, pulse: Pulse) -> None:
        if self.teacher.protocol is None:
            raise ValueError(f"teacher {self.teacher.name} has no protocol to train specialists under")
        try:
            sets = kept_weights(self.folder / "sets.safetensors")
        except CheckpointError:
            sets = self._sets(self._batches(device, data_root, 0), pulse)
            self._keep(sets, self.folder / "sets.safetensors", pulse)
        for number, members in enumerate(sets["members"]):
            path = self._path(number)
            try:
                kept_weights(path)
            except CheckpointError:
                pulse.note(f"training specialist {number + 1} of {len(sets['members'])}; classes: {int(members.sum())}")
                trained = self._train(members.numpy(), self._batches(device, data_root, number), number, device, pulse)
                self._keep(trained.body.state_dict(), path, pulse)

    def composed(self, device: torch.device) -> Composed:
        sets = kept_weights(self.folder / "sets.safetensors")
        networks = []
        for number, members in enumerate(sets["members"]):
            network = self._network(int(members.sum()) + 1)
            network.body.load_state_dict(kept_weights(self._path(number)))
            networks.append(network.to(device, memory_format=torch.channels_last).eval())
        composition = self.teacher.composition
        assert isinstance(composition, Specialists), "the kind that names this maker"
        members, lacking = sets["members"].to(device), sets["lacking"].to(device)

        def rule(said: Sequence[Tensor], told: Told) -> Tensor:
            return joint_logits(said[0], said[1:], lacking, members, composition.likeliest)

        return Composed([*self.parts, *networks], rule, self.dataset.spec.classes)

    def _keep(self, state: Mapping[str, Tensor], path: Path, pulse: Pulse) -> None:
        pulse.patiently(partial(write_weights, state, path), f"the teacher {self.teacher.name}")

    def _path(self, number: int) -> Path:
        return self.folder / f"specialist-{number}.safetensors"

    def _batches(self, device: torch.device, data_root: Path, stream: int) -> Batches:
        protocol = self.teacher.protocol
        assert protocol is not None, "make() has seen it"
        return make_batches(self.dataset, protocol, self.teacher.seed, stream, device, data_root=data_root)

    def _sets(self, batches: Batches, pulse: Pulse) -> dict[str, Tensor]:
        """The classes that the generalist confuses on the training images, and what each dustbin lacks."""
        composition, labels = self.teacher.composition, batches.labels.cpu().numpy()
        assert isinstance(composition, Specialists), "the kind that names this maker"
        with torch.inference_mode():
            said = []
            for batch in batches.plain(EVALUATION_BATCH):
                pulse.beat()
                said.append(self.parts[0](batch.x).logits.double().softmax(1).cpu())
        covariance = np.cov(torch.cat(said).numpy(), rowvar=False)
        members = clusters(covariance, composition.count, self.teacher.seed)
        special = [int(np.isin(labels, np.flatnonzero(own)).sum()) for own in members]
        if not all(0 < count < len(labels) for count in special):
            raise UserError(
                f"The teacher {self.teacher.name} found a set of classes with all of the training images, or none; "
                "change its count or its seed."
            )
        lacking = [dustbin_correction(count, len(labels) - count) for count in special]
        return {"members": torch.from_numpy(members), "lacking": torch.tensor(lacking, dtype=torch.float64)}

    def _network(self, classes: int) -> Network:
        """A network like the generalist for so many ``classes``, with weights of no account."""
        spec, like = self.dataset.spec, self.teacher.parts[0]
        norm, shape = like.normalisation, spec.image_shape
        with seeded("teacher"):
            return create(
                like.model, classes=classes, image_shape=shape, mean=norm.mean, std=norm.std, build=like.build
            )

    def _train(
        self, members: NDArray[np.bool_], batches: Batches, number: int, device: torch.device, pulse: Pulse
    ) -> Network:
        protocol = batches.protocol
        known = np.flatnonzero(members)
        network = self._network(len(known) + 1)
        network.body.load_state_dict(_initial(self.parts[0].body.state_dict(), network.body.state_dict(), known))
        network.to(device, memory_format=torch.channels_last).train()
        for parameter in network.parameters():
            parameter.requires_grad_(True)
        see = compiled(in_precision(network, protocol.precision), protocol.compile)
        own = torch.full((len(members),), len(known))
        own[torch.from_numpy(known)] = torch.arange(len(known))
        labels = own.to(device)[batches.labels]
        special = np.isin(batches.labels.cpu().numpy(), known)
        batches.draw_order = lambda rng: half_special(rng, special, protocol.batch)
        optimiser = SGD(
            network.parameters(),
            lr=protocol.lr,
            momentum=protocol.momentum,
            nesterov=protocol.nesterov,
            weight_decay=protocol.weight_decay,
        )
        for step in range(batches.total_steps):
            pulse.beat()
            batch = batches.batch(step)
            optimiser.param_groups[0]["lr"] = learning_rate(protocol, step, batches.steps_per_epoch)
            optimiser.zero_grad(set_to_none=True)
            with seeded(self.teacher.seed, "specialist", number, step):
                loss = F.cross_entropy(see(batch.x).logits.float(), labels[batch.index])
            loss.backward()
            optimiser.step()
        if not bool(torch.isfinite(loss)):
            raise UserError(
                f"Specialist {number + 1} of the teacher {self.teacher.name} diverged, so nobody can learn from it; "
                "change its protocol in the suite."
            )
        return network


def half_special(rng: np.random.Generator, special: NDArray[np.bool_], batch: int) -> NDArray[np.int64]:
    """Places [N] in the training split for an epoch, of which each whole batch is half of images that are ``special``.

    Those are seen as often as that takes, and each as often as any other but for one; all under one augmentation.
    """
    total = len(special)
    wanted = np.arange(total) % batch % 2 == 0  # by turns, so that a short last batch is half and half, too
    places = np.empty(total, dtype=np.int64)
    for kind, slots in ((special, wanted), (~special, ~wanted)):
        pool, count = np.flatnonzero(kind), int(slots.sum())
        rounds = -(-count // len(pool))
        drawn = [pool[np.argsort(rng.bit_generator.random_raw(len(pool)), kind="stable")] for _ in range(rounds)]
        places[slots] = np.concatenate(drawn)[:count]
    return places


def _initial(general: dict[str, Tensor], own: dict[str, Tensor], known: NDArray[np.int64]) -> dict[str, Tensor]:
    """The generalist's weights; of its classifier the rows of the ``known`` classes, and the mean of the others."""
    made = {}
    for name, value in general.items():
        if value.shape == own[name].shape:
            made[name] = value.clone()
        else:
            others = np.setdiff1d(np.arange(len(value)), known)
            made[name] = torch.cat([value[known], value[others].mean(0, keepdim=True)])
    return made
