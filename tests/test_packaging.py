"""Source distribution and wheel are whole, and the wheel works where it is installed."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOT_SHIPPED = {"__pycache__", "dist", "site"}


def run(*command: object, folder: Path) -> str:
    """Run `command` in `folder`, without this checkout on Python's path; return what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(kind: str, source: Path, target: Path) -> Path:
    run(sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", target, folder=source)
    (built,) = target.iterdir()
    return built


def files(folder: Path) -> set[str]:
    """Return the paths of the files in `folder` that belong to the project, relative to it."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if not NOT_SHIPPED & set(path.parts)}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the unpacked source distribution."""
    folder = tmp_path_factory.mktemp("source")
    with tarfile.open(build("sdist", ROOT, tmp_path_factory.mktemp("sdist"))) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return unpacked


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the wheel that the source distribution makes."""
    return build("wheel", source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual environment with the wheel; what it depends on is borrowed from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    python = folder / "bin" / "python"
    run(
        sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel,
        folder=folder,
    )  # fmt: skip
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_the_source_distribution_has_what_a_checkout_has(source: Path) -> None:
    for folder in ("tuner", "search_spaces", "tests", "docs", "benchmarks", "examples"):
        assert files(source / folder) == files(ROOT / folder), folder
    top = {path.name for path in source.iterdir() if path.is_file()}
    kept = {"CHANGELOG.md", "LICENSE", "Makefile", "README.md", "mkdocs.yml", "pyproject.toml"}
    assert top == kept | {".dockerignore", ".gitignore", "Dockerfile", "PKG-INFO"}


def test_the_wheel_has_the_package_with_spaces_recipes_and_types_and_nothing_else(wheel: Path) -> None:
    package = {f"tuner/{name}" for name in files(ROOT / "tuner")}
    spaces = {f"tuner/search_spaces/{name}" for name in files(ROOT / "search_spaces")}
    assert {name for name in names_in(wheel) if ".dist-info/" not in name} == package | spaces
    assert "tuner/py.typed" in package
    assert any(name.endswith("/licenses/LICENSE") for name in names_in(wheel))


def test_the_metadata_name_each_supported_python_and_no_made_up_link(wheel: Path) -> None:
    found = metadata(wheel)
    classifiers = found.get_all("Classifier", [])
    for minor in (11, 12, 13):
        assert f"Programming Language :: Python :: 3.{minor}" in classifiers
    assert found["Requires-Python"] == ">=3.11"
    assert found["Description-Content-Type"] == "text/markdown"
    assert "# fastface-tuner" in str(found.get_payload())
    assert found.get_all("Project-URL") is None


def test_an_installed_wheel_finds_its_spaces_and_recipes(environment: Path, tmp_path: Path) -> None:
    code = "import tuner; print(tuner.__file__)"
    assert run(environment / "bin" / "python", "-c", code, folder=tmp_path).startswith(str(environment))
    command = environment / "bin" / "fastface-tuner"
    spaces = json.loads(run(command, "spaces", "--json", folder=tmp_path))["spaces"]
    assert {space["name"] for space in spaces} == {path.stem for path in (ROOT / "search_spaces").glob("*.yaml")}
    recipes = json.loads(run(command, "recipes", "--json", folder=tmp_path))["recipes"]
    assert "ms1mv3_r50" in {recipe["name"] for recipe in recipes}


USER_CODE = """\
import torch
from torch.optim.lr_scheduler import LRScheduler

from tuner import FastFaceLR, HaarLR

optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.5)
scheduler = FastFaceLR(optimizer, total_steps=100, patience_fraction=0.05, decay_factor=2)
scheduler.add_loss(torch.tensor(3.0))
scheduler.step()
scheduler.step(3.0)
lrs: list[float] = scheduler.get_last_lr()
haar: LRScheduler = HaarLR(optimizer, total_steps=100)
response: float = scheduler.response  # wrong: None at first
FastFaceLR(optimizer)  # wrong: no number of steps
FastFaceLR(optimizer, total_steps=100, loss_delay=2)  # wrong: 0 or 1
scheduler.step("3.0")  # wrong: no loss
"""


def test_mypy_checks_the_code_of_a_user_against_the_installed_wheel(environment: Path, tmp_path: Path) -> None:
    cache, code = tmp_path / "cache", tmp_path / "user_code.py"
    if (ROOT / ".mypy_cache").is_dir():  # what `make test` has just made: torch alone takes most of a minute
        shutil.copytree(ROOT / ".mypy_cache", cache)
    code.write_text(USER_CODE)
    options = ["--config-file", ROOT / "pyproject.toml", "--cache-dir", cache]
    command = [sys.executable, "-m", "mypy", *options, "--python-executable", environment / "bin" / "python", code]
    done = subprocess.run([str(word) for word in command], cwd=tmp_path, capture_output=True, text=True, timeout=180)
    found = {int(line) for line in re.findall(r"^user_code\.py:(\d+): error", done.stdout, re.MULTILINE)}
    wrong = {number for number, line in enumerate(USER_CODE.splitlines(), 1) if "# wrong" in line}
    assert found == wrong, done.stdout + done.stderr


def test_the_dockerfile_copies_what_the_wheel_is_built_from(wheel: Path, tmp_path: Path) -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[0] == "!"}
    copies = [line.split()[1:] for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert {name for *names, _ in copies for name in names} == allowed
    context = tmp_path / "source"
    context.mkdir()
    for *names, target in copies:
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, context / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, context / target)
    assert names_in(build("wheel", context, tmp_path / "wheel")) == names_in(wheel)
