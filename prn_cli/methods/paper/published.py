"""Names and shapes of published PatchRefineNet checkpoints, told apart and renamed to those of `PaperNetwork`."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from prn_cli.errors import InputError
from prn_cli.methods.paper.network import PaperNetwork
from prn_cli.methods.published import Rules, our_name

# The numbers count levels from the top there, and the way of the data here.
RULES: Rules = (
    (r"^encoding\.RRCNN(\d)\.", lambda m: f"encoder.{int(m[1]) - 1}."),
    (r"^encoding\.psp\.stages\.(\d)\.1\.", r"pyramid.projections.\1."),
    (r"^encoding\.psp\.bottleneck\.", "pyramid.merge."),
    (r"^decode([123])_(global|local)\.", lambda m: f"{m[2]}_decoder.levels.{3 - int(m[1])}."),
    (r"^(?:out|conv_last)_(global|local)\.0\.", r"\1_decoder.head."),
    (r"\.Up\.up\.(\d)\.", lambda m: f".up.{int(m[1]) - 1}."),
    (r"\.Up_Conv\.", ".merge."),
    (r"\.Attn\.W_g\.", ".gate.of_decoder."),
    (r"\.Attn\.W_x\.", ".gate.of_skip."),
    (r"\.Attn\.psi\.", ".gate.score."),
    (r"\.RCNN\.(\d)\.conv\.", r".units.\1.step."),
    (r"\.Conv_1x1\.", ".project."),
)


def knows(state: Mapping[str, Tensor]) -> bool:
    """Whether a published state dictionary is one of this network, to judge by its names."""
    return any(name.startswith("encoding.RRCNN") for name in state)


def from_published(state: dict[str, Tensor], *, patch: int | None = None) -> PaperNetwork:
    """A `PaperNetwork` with the weights of a published checkpoint.

    Args:
        state: the published state dictionary.
        patch: side of a patch, px; if None, 128 for `p4` and 64 for `p64`, which differ in the names of their heads.

    Raises:
        InputError: if a name is missing or too many, or a shape differs.
    """
    if "out_local.0.weight" in state:
        found, side = "p64", 64
    elif "conv_last_local.0.weight" in state:
        found, side = "p4", 128
    else:
        found, side = "p0", 0
    network = PaperNetwork(patch if patch and side else side)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    renamed = {our_name(name, RULES): tensor for name, tensor in state.items()}
    missing, extra = expected.keys() - renamed.keys(), renamed.keys() - expected.keys()
    if missing or extra:
        raise InputError(
            f"not a published PatchRefineNet: {len(missing)} of {len(expected)} tensors are missing"
            f"{_examples(missing)}, {len(extra)} are unknown{_examples(extra)}",
            hint="p0, p4 and p64 of the published code can be imported",
        )
    for name, shape in expected.items():
        if tuple(renamed[name].shape) != shape:
            raise InputError(
                f"not a published PatchRefineNet ({found}): {name} has shape {tuple(renamed[name].shape)}, "
                f"expected {shape}"
            )
    network.load_state_dict(renamed)
    return network.eval()


def _examples(names: set[str]) -> str:
    return f" (such as {min(names)})" if names else ""
