from __future__ import annotations

import subprocess
import sys

import pytest


def test_libraries_of_a_format_are_imported_when_a_file_needs_them() -> None:
    program = "import sys, prn_cli.rasters; print([name for name in sys.modules if name.split('.')[0] in %r])"
    libraries = ["tifffile", "imagecodecs", "PIL", "xml", "zipfile", "torch", "rasterio"]
    result = subprocess.run([sys.executable, "-c", program % libraries], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["jpeg", "png"])
def test_pillow_has_no_limit_of_its_own_whatever_is_read_first(module):
    program = f"import prn_cli.rasters.{module}; from PIL import Image; print(Image.MAX_IMAGE_PIXELS)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "None"
