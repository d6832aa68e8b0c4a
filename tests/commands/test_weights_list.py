"""`prn weights list`: what weights have learned from, under which terms, and what they gain."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from prn_cli.methods.weights import shipped

pytestmark = pytest.mark.skipif(not shipped(), reason="a checkout without weights")


def listed(*arguments: str) -> str:
    command = [sys.executable, "-m", "prn_cli", "weights", "list", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_every_weights_are_listed_with_data_terms_and_figures() -> None:
    text = listed()
    starts = [re.search(rf"^{entry.name}: ", text, re.MULTILINE) for entry in shipped()]
    assert all(starts)
    places = [start.start() for start in starts if start] + [len(text)]
    for entry, start, end in zip(shipped(), places, places[1:], strict=False):
        block = " ".join(text[start:end].split())
        assert entry.description in block
        assert entry.sha256[:12] in block
        terms = entry.card["training"]["sets"]
        assert terms
        assert all(f"{name}: {each}" in block for name, each in terms.items())
        assert re.search(r"[+-]\d+\.\d+ \[[+-]\d+\.\d+, [+-]\d+\.\d+\]", block), entry.name


def test_of_an_encoder_the_terms_and_of_unseen_sets_the_losses_are_said() -> None:
    (image,) = (entry for entry in shipped() if entry.name == "image")
    block = " ".join(listed()[listed().index("\nimage: ") :].split())
    assert f"encoder: {image.card['training']['encoder']}" in block
    for what, figures in image.card["test_splits, leave-one-set-out, points"].items():
        assert f"{what}: pooled IoU {figures['pooled IoU']}" in block
        assert f"{figures['lose > 0.2']} lose more than 0.2, the worst {figures['worst']}" in block


def test_as_json_it_is_the_whole_card() -> None:
    assert {entry["name"] for entry in json.loads(listed("--json"))} == {entry.name for entry in shipped()}
