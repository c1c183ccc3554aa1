"""Every command and every piece of code in the README runs as it stands, only shorter."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from tuner.cli.main import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHORTER = {
    "sweep": ("--trials", "2", "--steps", "12"),
    "confirm": ("--top", "1", "--seeds", "2"),
    "train": ("--steps", "12"),
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line]


def tool(arguments: list[str]) -> list[str]:
    """Return the command for `fastface-tuner ARGUMENTS` here, made shorter: a later option overrides an earlier one."""
    return [sys.executable, "-m", "tuner.cli.main", *arguments, *SHORTER.get(arguments[0], ())]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Callable[[Path], str]) -> Path:
    """Return a working folder with what the README takes for granted: faces, and its own search space and run."""
    folder = tmp_path_factory.mktemp("readme")
    mlflow_store(folder)
    noise = np.random.default_rng(0)
    for person in range(6):
        place = folder / "faces" / f"person{person}"
        place.mkdir(parents=True)
        for number in range(4):
            Image.fromarray(noise.integers(0, 255, (60, 50, 3), np.uint8)).save(place / f"{number}.jpg")
    for name, text in zip(("my_space.yaml", "my_run.yaml"), blocks("yaml"), strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_the_commands_of_the_readme_run_in_its_order(workplace: Path, session_cache: Path) -> None:
    environment = {**os.environ, "FASTFACE_TUNER_CACHE": str(session_cache)}
    environment.pop("MLFLOW_TRACKING_URI")
    ran = [shlex.split(line)[1:] for line in commands() if line.startswith("fastface-tuner ")]
    assert {arguments[0] for arguments in ran} == {str(name) for name in get_command(app).commands}  # type: ignore[attr-defined]
    for arguments in ran:
        if arguments[0] == "ui":  # does not end by itself: tests/test_ui.py
            continue
        done = subprocess.run(
            tool(arguments), cwd=workplace, env=environment, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, (arguments, done.stderr)
        assert done.stdout.strip(), arguments
    for name in ("replay.png", "report.html", "runs/my_run/backbone.pth"):
        assert (workplace / name).stat().st_size > 10_000


def test_the_mlflow_ui_opens_on_the_default_store(workplace: Path) -> None:
    line = next(line for line in commands() if "mlflow ui" in line)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", *shlex.split(line.replace(".venv/bin/", "")), "--port", str(port)]
    with subprocess.Popen(
        command, cwd=workplace, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as server:
        try:
            assert _answers(f"http://127.0.0.1:{port}/health", seconds=90)
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def _answers(address: str, *, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            time.sleep(0.3)
    return False


def test_make_has_the_targets_and_its_sweep_is_one_that_runs(workplace: Path, session_cache: Path) -> None:
    assert {line for line in commands() if line.startswith("make ")} == {"make sweep", "make test"}
    planned = subprocess.run(["make", "-n", "sweep"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    line = next(line for line in planned.splitlines() if "fastface-tuner sweep" in line)
    arguments = shlex.split(line)[1:]
    arguments[1] = str(ROOT / arguments[1])
    environment = {**os.environ, "FASTFACE_TUNER_CACHE": str(session_cache)}
    done = subprocess.run(tool(arguments), cwd=workplace, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "best: trial" in done.stdout


def test_the_python_code_of_the_readme_runs() -> None:
    for block in blocks("python"):
        names: dict[str, object] = {}
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - our own README
        assert names["scheduler"].last_epoch == 1000  # type: ignore[attr-defined]
