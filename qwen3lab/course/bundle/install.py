"""Install the course from the unpacked bundle, without a network: `python3 install.py`.

Needs only Python.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Create course/.venv from the wheels folder; returns the exit code."""
    made_for = json.loads((HERE / "made_for.json").read_text(encoding="utf-8"))
    here = {
        "python": "{}.{}".format(*platform.python_version_tuple()),
        "system": platform.system(),
        "machine": platform.machine(),
    }
    if here != made_for:
        print(
            "This bundle was made for Python {python} on {system} {machine}, ".format(**made_for)
            + "and this is Python {python} on {system} {machine}. ".format(**here)
            + "Start install.py with that Python, or ask for a bundle that was made on a machine"
            " like this one.",
            file=sys.stderr,
        )
        return 1
    course = HERE / "course"
    programs = course / ".venv" / ("Scripts" if os.name == "nt" else "bin")
    print("making the environment course/.venv", flush=True)
    venv.create(course / ".venv", with_pip=True)
    # Ignore the machine's pip settings: they could add an index or a conflicting constraint.
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith("PIP_")
    } | {"PIP_CONFIG_FILE": os.devnull}
    print(
        f"installing {len(list((HERE / 'wheels').glob('*.whl')))} wheels, which takes a few"
        " minutes",
        flush=True,
    )
    done = subprocess.run(
        [
            str(programs / "python"),
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-index",
            "--find-links",
            str(HERE / "wheels"),
            "-c",
            "constraints.txt",
            "-e",
            ".",
        ],
        cwd=course,
        env=environment,
    )
    if done.returncode:
        print(
            "The wheels could not be installed; pip's reason stands above. Unpack the bundle again"
            " into an empty folder with enough room.",
            file=sys.stderr,
        )
        return 1
    (course / ".venv" / ".ready").touch()  # the Makefile's stamp file
    print(
        "done. In the folder course: "
        + str(Path(".venv") / programs.name / "qwen3lab")
        + " doctor",
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
