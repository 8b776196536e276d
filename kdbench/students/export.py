"""A student as a file for other programs: plain weights, ONNX, or a program of torch.export."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save

from kdbench.canonical import plain
from kdbench.errors import UserError, reason
from kdbench.folders import write_atomically
from kdbench.students.student import Student

#: What an exported file of weights says of itself under this name.
ABOUT = "kdbench"


def safetensors(student: Student) -> bytes:
    """The weights by the names that the architecture itself gives them, as timm and torchvision load them.

    Of a network that is more than its student, by those that kdbench gives them.
    """
    network = student.network.body if student.alone else student.network
    state = {name: value.contiguous().clone() for name, value in network.state_dict().items()}
    return save(state, metadata={ABOUT: json.dumps(plain(student.about)), "format": "pt"})


def onnx(student: Student) -> bytes:
    """An ONNX model from ``images`` to ``logits``, for any number of images. UserError without its libraries."""
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("ONNX needs libraries that are not installed; pip install 'kdbench[onnx]'.") from None
    program = torch.onnx.export(
        student,
        (_images(student),),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes=_shapes(),
        dynamo=True,
        verbose=False,
    )
    return program.model_proto.SerializeToString()  # type: ignore[no-any-return, union-attr]


def pt2(student: Student) -> bytes:
    """A program that ``torch.export.load`` reads, for any number of images."""
    stream = io.BytesIO()
    torch.export.save(torch.export.export(student, (_images(student),), dynamic_shapes=_shapes()), stream)
    return stream.getvalue()


def _images(student: Student) -> torch.Tensor:
    """Two of them, as one would be taken for the only number there can be."""
    return torch.zeros(2, *student.about.image_shape)


def _shapes() -> dict[str, dict[int, torch.export.Dim]]:
    return {"images": {0: torch.export.Dim("batch")}}  # type: ignore[dict-item]


#: The ending of a file -> what writes it.
FORMATS: dict[str, Callable[[Student], bytes]] = {".safetensors": safetensors, ".onnx": onnx, ".pt2": pt2}


def write(student: Student, path: Path) -> None:
    """Write ``student`` to ``path``, as its ending says; UserError where torch cannot make a program of it."""
    try:
        content = FORMATS[path.suffix](student)
    except UserError:
        raise
    except Exception as error:  # torch follows a network only so far
        raise UserError(
            f"{path}: torch cannot export this network as {path.suffix} ({reason(error)}); take .safetensors."
        ) from None
    write_atomically(path, content)
