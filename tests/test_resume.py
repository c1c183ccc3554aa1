"""A sweep that is killed, interrupted or extended finds what it would have found, and trains nothing twice."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked_sweep import SPACE, recorded
from mirrored import read_mirrored_curve
from mlflow import MlflowClient

from tuner.analysis.compare import as_row
from tuner.analysis.summary import ranked
from tuner.config.space_file import space_from_text
from tuner.curves import read_curve
from tuner.errors import UserError
from tuner.names import CACHE_VARIABLE, TRACKING_URI_VARIABLE
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.sweep.asked import Asked
from tuner.sweep.folder import SweepDescription, SweepFolder
from tuner.sweep.resume import check_same, find_begun
from tuner.trials import TrialRecord

HERE = Path(__file__).parent
FIRST = Path("sweeps", "first")


class Workplace:
    """A folder in which sweeps run in processes of their own, on one core each, with a store and a cache."""

    def __init__(self, path: Path, uri: str, cache: Path) -> None:
        self.path, self.uri = path, uri
        places = {TRACKING_URI_VARIABLE: uri, CACHE_VARIABLE: str(cache)}
        self.environment = {**os.environ, **places, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
        (path / "space.yaml").write_text(SPACE)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command line."""
        command = [sys.executable, "-m", "tuner.cli.main", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.path,
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {max(os.sched_getaffinity(0))}),
        )

    def run(self, *arguments: str) -> str:
        with self.start(*arguments) as process:
            out, _ = process.communicate(timeout=240)
        assert process.returncode == 0, out
        return out

    def wait_for_steps(self, steps: int) -> None:
        """Wait until the stage store has so many steps more than now."""
        os.chdir(self.path)
        steps, deadline = recorded() + steps, time.monotonic() + 120
        while recorded() < steps and time.monotonic() < deadline:
            time.sleep(0.01)

    @property
    def records(self) -> list[TrialRecord]:
        return Ledger.open(self.path / FIRST / "study.journal", read_only=True).trials()

    def statuses(self) -> dict[str, str]:
        """Return the status of the runs that belong to the sweep, by id."""
        client = MlflowClient(self.uri)
        parent = SweepFolder(self.path / FIRST).read().parent_run_id
        ids = [parent, *(record.run_id for record in self.records if record.run_id is not None)]
        return {run_id: client.get_run(run_id).info.status for run_id in ids}


@pytest.fixture
def workplace(tmp_path: Path, session_cache: Path, mlflow_store: Callable[[Path], str]) -> Workplace:
    return Workplace(tmp_path, mlflow_store(tmp_path), session_cache)


@pytest.fixture(scope="module")
def forked(
    tmp_path_factory: pytest.TempPathFactory, session_cache: Path, mlflow_store: Callable[[Path], str]
) -> dict[str, tuple[Workplace, int]]:
    """Run one sweep whole, and broken off in two ways; return where, and how many kills hit it before its end."""
    ways = {"whole": "0:SIGKILL", "SIGKILL": "4:SIGKILL", "SIGTERM": "4:SIGTERM:no-share"}
    paths = {name: tmp_path_factory.mktemp(name) for name in ways}
    places = {name: Workplace(path, mlflow_store(path), session_cache) for name, path in paths.items()}
    command = [sys.executable, str(HERE / "forked_sweep.py"), "7", *(f"{paths[name]}:{ways[name]}" for name in ways)]
    done = subprocess.run(command, env=places["whole"].environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return {name: (place, int(hits)) for (name, place), hits in zip(places.items(), done.stdout.split(), strict=True)}


@pytest.fixture
def whole(forked: dict[str, tuple[Workplace, int]]) -> Workplace:
    """Return where the sweep ran from its start to its end."""
    return forked["whole"][0]


def assert_same(broken: Workplace, whole: Workplace, *, shared: bool = True) -> None:
    """Assert that the tables are the same but for times and steps trained again, and so is each file of each trial."""
    tables = [[as_row(record) for record in ranked(each.records, maximize=True)] for each in (broken, whole)]
    for row, expected in zip(*tables, strict=True):
        for name in ("seconds", "run_id"):
            row.pop(name), expected.pop(name)
        new = [each.pop("steps_executed") - each.pop("steps_repeated") for each in (row, expected)]
        total = row["steps_shared"] + new[0]
        if not shared:
            row.pop("steps_shared"), expected.pop("steps_shared")
            new = [total, 40]
        assert row == expected
        assert new[0] == new[1]
        assert total == 40
    for file in sorted((whole.path / FIRST / "trials").rglob("*.*")):
        assert (broken.path / file.relative_to(whole.path)).read_bytes() == file.read_bytes()
    assert sorted(path.name for path in (broken.path / FIRST / "trials").rglob("*")) == sorted(
        path.name for path in (whole.path / FIRST / "trials").rglob("*")
    )


@pytest.mark.parametrize("way", ["SIGKILL", "SIGTERM"])
def test_a_sweep_broken_off_at_random_moments_finds_what_a_whole_one_does(
    way: str, forked: dict[str, tuple[Workplace, int]], whole: Workplace
) -> None:
    broken, hits = forked[way]
    assert hits >= 2
    assert_same(broken, whole, shared=way == "SIGKILL")
    assert len({record.run_id for record in broken.records}) == 4
    assert broken.statuses()[SweepFolder(broken.path / FIRST).read().parent_run_id] == "FINISHED"
    if way == "SIGTERM":
        assert set(broken.statuses().values()) == {"FINISHED"}


def test_with_ray_too_nothing_is_lost_and_nothing_stays_behind(whole: Workplace, workplace: Workplace) -> None:
    with workplace.start("sweep", "space.yaml", "--seed", "3", "--trials", "2", "--name", "first") as killed:
        workplace.wait_for_steps(8)
        killed.kill()
        killed.communicate(timeout=60)
    gone(killed.pid)
    (begun,) = workplace.records
    assert begun.state == "RUNNING"

    out = workplace.run("resume", "first", "--trials", "4")
    assert "trial 0 was not finished; it goes on from its last recorded step" in out
    assert_same(workplace, whole)
    assert workplace.records[0].run_id == begun.run_id
    assert set(workplace.statuses().values()) == {"FINISHED"}
    client = MlflowClient(workplace.uri)
    for record in workplace.records:
        assert record.run_id is not None
        curve = read_curve(workplace.path / FIRST / "trials" / f"{record.number:04d}" / "curve.csv")
        assert read_mirrored_curve(client, record.run_id) == curve


def gone(pid: int) -> None:
    """Wait a moment until no process has a file of the Ray that `pid` started."""
    deadline = time.monotonic() + 5
    while (left := ray_processes(pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def ray_processes(pid: int) -> list[str]:
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if re.search(rf"/session_[^/]*_{pid}/", str(link.readlink())):
                found.append(link.parts[2])
        except OSError:
            continue
    return sorted(set(found))


def test_a_finished_sweep_is_only_summed_up_and_its_status_says_so(
    whole: Workplace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(whole.path)
    before = (whole.path / FIRST / "study.journal").read_bytes()
    code, out, _ = command("resume", "first", capsys=capsys)
    assert code == 0
    assert "4 of 4 trials are done" in out
    assert "best: trial" in out
    assert (whole.path / FIRST / "study.journal").read_bytes() == before
    status = json.loads(command("status", "first", "--json", capsys=capsys)[1])
    assert (status["state"], status["resume"], status["under_way"]) == ("finished", None, None)
    assert status["trials"] == {"wanted": 4, "asked": 4, "complete": 4, "failed": 0}
    assert status["best"]["trial"] == max(whole.records, key=lambda record: record.value or 0).number


# What can be seen without training: a ledger with two finished trials and one under way.


def made(path: Path, *, uri: str = "sqlite:///x.db", **settings: Any) -> SweepFolder:
    folder = SweepFolder(path / FIRST)
    folder.write(SweepDescription(name="first", trials=4, tracking_uri=uri, parent_run_id="p", **settings))
    ledger = Ledger.create(folder.journal, plan=make_plan(space_from_text(SPACE, file="space.yaml"), seed=3))
    for value in (0.5, None):
        trial = ledger.ask()
        assert trial is not None
        failed = None if value is not None else "the loss must stay finite"
        ledger.tell(trial.number, value=value, reason=failed, steps_executed=40, steps_repeated=2)
    ledger.ask()
    (path / "space.yaml").write_text(SPACE)
    return folder


def test_the_status_of_a_dead_sweep_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made(tmp_path)
    status = json.loads(command("status", "first", "--json", capsys=capsys)[1])
    assert status["trials"] == {"wanted": 4, "asked": 3, "complete": 1, "failed": 1}
    assert status["under_way"]["trial"] == 2
    assert status["under_way"]["steps_done"] == 0
    assert (status["steps_executed"], status["steps_repeated"]) == (80, 4)
    assert status["last_failure"] == "the loss must stay finite"
    assert status["resume"] == "fastface-tuner resume first"
    folder.trial(2).mkdir(parents=True)
    (folder.trial(2) / "curve.csv").write_text("step,loss,lr,detector_response\n0,9.5,0.2,0.0\n1,8.25,0.1,0.0\n2,7.")
    out = command("status", str(folder.path), capsys=capsys)[1]
    assert "2 of 4 trials done, 1 failed" in out
    assert "trial 2: step 2 of 40, loss 8.250, lr 0.1" in out


def test_a_sweep_gets_more_trials_but_not_fewer_than_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path)
    code, _, error = command("resume", "first", "--trials", "1", capsys=capsys)
    assert code == 2
    assert "`--trials >= 2` must hold" in error


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--seed", "4"], "--seed is 4 and the sweep 'first' has 3"),
        (["--steps", "50"], "--steps is 50"),
        (["--data", "elsewhere"], "--data is"),
        (["--no-share"], "sharing of steps is False"),
        (["smoke"], "the space smoke is not the one"),
    ],
)
def test_resume_refuses_to_go_on_with_another_sweep(
    arguments: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = made(tmp_path, store=str(tmp_path / "stages"))
    before = folder.journal.read_bytes()
    code, _, error = command("sweep", *arguments, "--name", "first", "--resume", capsys=capsys)
    assert code == 2
    assert expected in error
    assert len(error.strip().splitlines()) == 1
    assert folder.journal.read_bytes() == before


def test_what_is_not_said_or_does_not_matter_is_no_contradiction(tmp_path: Path) -> None:
    folder = made(tmp_path)
    plan, description = Ledger.open(folder.journal).plan, folder.read()
    check_same(Asked(), plan, description)
    (tmp_path / "space.yaml").write_text("# another comment\n" + SPACE.replace("trials: 5", "trials: 9"))
    check_same(Asked(space="space.yaml", steps=40, seed=3, data="synthetic", share=False), plan, description)


def test_resume_must_be_told_which_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, error = command("sweep", "--resume", capsys=capsys)
    assert code == 2
    assert "--name" in error
    code, _, error = command("resume", "nowhere", capsys=capsys)
    assert code == 2
    assert "there is no sweep 'nowhere'" in error


def test_a_sweep_killed_while_it_was_made_is_begun_anew(tmp_path: Path) -> None:
    folder = made(tmp_path)
    folder.journal.rename(folder.journal.with_name("study.journal.new"))
    assert find_begun(Asked(name="first")) is None
    assert list(folder.path.iterdir()) == []
    folder.check_free("first")


def test_a_sweep_whose_journal_is_lost_is_not_begun_anew(tmp_path: Path) -> None:
    folder = made(tmp_path)
    folder.trial(0).mkdir(parents=True)
    folder.journal.unlink()
    assert find_begun(Asked(name="first")) is None
    with pytest.raises(UserError, match="first"):
        folder.check_free("first")


def test_other_faces_than_those_of_the_beginning_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path, faces="another digest")
    code, _, error = command("resume", "first", capsys=capsys)
    assert code == 2
    assert "have changed" in error


def command(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command line in this process; return its status and what it printed."""
    from tuner.cli.main import main

    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ending:
        patch.setattr(sys, "argv", ["fastface-tuner", *arguments])
        main()
    captured = capsys.readouterr()
    return int(ending.value.code or 0), captured.out, captured.err
