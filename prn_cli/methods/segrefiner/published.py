"""Names and shapes of published SegRefiner checkpoints, renamed to those of `SegrefinerNetwork`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from prn_cli.errors import InputError, UsageError
from prn_cli.methods.published import Rules, our_name
from prn_cli.methods.segrefiner.network import SegrefinerNetwork

CENTRE = (123.675, 116.28, 103.53)
"""Of the red, green and blue of 8-bit images, which the published networks take relative to this."""
SPREAD = (58.395, 57.12, 57.375)

RULES: Rules = (
    (r"^denoise_model\.", ""),
    (r"^time_embed\.", "steps."),
    (r"^input_blocks\.0\.0\.", "stem."),
    (r"^input_blocks\.(\d+)\.", lambda m: f"down.{int(m[1]) - 1}."),
    (r"^output_blocks\.", "up."),
    (r"^middle_block\.0\.", "middle.0.block."),
    (r"^middle_block\.1\.", "middle.0.after.0."),
    (r"^middle_block\.2\.", "middle.1."),
    (r"^out\.0\.", "norm."),
    (r"^out\.2\.", "head."),
    (r"^(down\.\d+)\.0\.op\.", r"\1."),
    (r"^((?:down|up)\.\d+)\.0\.", r"\1.block."),
    (r"^((?:down|up)\.\d+)\.([12])\.", lambda m: f"{m[1]}.after.{int(m[2]) - 1}."),
    (r"\.in_layers\.0\.", ".norm1."),
    (r"\.in_layers\.2\.", ".conv1."),
    (r"\.emb_layers\.1\.", ".step."),
    (r"\.out_layers\.0\.", ".norm2."),
    (r"\.out_layers\.3\.", ".conv2."),
    (r"\.skip_connection\.", ".skip."),
    (r"\.proj_out\.", ".out."),
)


def knows(state: Mapping[str, Tensor]) -> bool:
    """Whether a published state dictionary is one of this network, to judge by its names."""
    return any(re.match(r"(denoise_model\.)?(input_blocks|time_embed)\.", name) for name in state)


def from_published(state: dict[str, Tensor], *, patch: int | None = None) -> SegrefinerNetwork:
    """A `SegrefinerNetwork` with the weights of a published checkpoint, of any width.

    Args:
        state: the published state dictionary.
        patch: None; there are no patches.

    Raises:
        InputError: if a name is missing or too many, or a shape differs.
        UsageError: a patch is given.
    """
    if patch is not None:
        raise UsageError(f"--patch {patch}, but SegRefiner has no patches", hint="leave --patch out")
    renamed = {our_name(name, RULES): tensor for name, tensor in state.items()}
    stem, steps = renamed.get("stem.weight"), renamed.get("steps.weight")
    if stem is None or steps is None or stem.ndim != 4 or steps.ndim != 2 or len(stem) % 4 or not len(stem):
        raise InputError("not a published SegRefiner: its first layer, or the table of its steps, is missing or odd")
    if stem.shape[1] != 1 + len(CENTRE):
        raise InputError(f"not a published SegRefiner: it takes {stem.shape[1]} planes, expected 4")
    network = SegrefinerNetwork(len(stem), chain_steps=len(steps))
    network.set_statistics(CENTRE, SPREAD)
    own = network.state_dict()
    expected = {name: tuple(tensor.shape) for name, tensor in own.items() if name not in ("centre", "spread")}
    found = {name: tuple(tensor.shape) for name, tensor in renamed.items()}
    wrong = [
        (name, found.get(name)) for name in sorted(expected.keys() | found) if found.get(name) != expected.get(name)
    ]
    if wrong:
        raise InputError(
            f"not a published SegRefiner: {len(wrong)} of {len(expected)} tensors differ, such as {wrong[0][0]}: "
            f"{wrong[0][1] or 'nothing'}, expected {expected.get(wrong[0][0], 'nothing')}",
            hint="networks of six levels with a learned table of steps can be imported",
        )
    network.load_state_dict(own | renamed)
    return network.eval()
