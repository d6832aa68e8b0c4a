from __future__ import annotations

import subprocess
import sys


def test_libraries_of_a_format_are_imported_when_a_file_needs_them() -> None:
    program = "import sys, prn_cli.rasters; print([name for name in sys.modules if name.split('.')[0] in %r])"
    libraries = ["tifffile", "imagecodecs", "PIL", "xml", "zipfile", "torch", "rasterio"]
    result = subprocess.run([sys.executable, "-c", program % libraries], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
