"""The disks in trouble trouble nothing but the store."""

import os
import subprocess
import sys
from pathlib import Path

IMPORT_UNDER_LIMIT = """
from pathlib import Path
from kit.disks import file_size_limit

with file_size_limit(Path()):
    import imported_late
"""


def test_a_module_first_imported_under_a_file_size_limit_is_whole_for_other_processes(tmp_path: Path) -> None:
    (tmp_path / "imported_late.py").write_text("NUMBERS = [" + ", ".join(map(str, range(1_000))) + "]\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | {
        "PYTHONPATH": os.pathsep.join([os.fspath(Path(__file__).parents[1]), os.fspath(tmp_path)]),
        "PYTHONPYCACHEPREFIX": os.fspath(tmp_path / "bytecode"),
    }
    for program in (IMPORT_UNDER_LIMIT, "import imported_late"):
        subprocess.run([sys.executable, "-c", program], env=environment, check=True)
