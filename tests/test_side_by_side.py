"""Several trials at a time, without Ray: what is suggested, filed, shown, and which machines and GPUs they get."""

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_sweep import FAILING, TRIALS, FakeSweep, shown
from rich.console import Console

from tuner.config.space_file import space_from_text
from tuner.config.space_model import SamplerName
from tuner.errors import UserError
from tuner.search.ledger import Ledger
from tuner.search.plan import make_plan
from tuner.sweep import devices
from tuner.sweep.asked import Budget
from tuner.sweep.cluster import Machine, Share, able, check_answer, divided, joined
from tuner.sweep.devices import VISIBLE, Gpu, visible
from tuner.sweep.ending import Ending
from tuner.sweep.lanes import local_lanes, wanted_gpus
from tuner.sweep.lock import device_locks, is_running
from tuner.sweep.progress import ConsoleProgress
from tuner.sweep.source import LOST_PROCESS

SPACE = """
question: q
steps: 60
schedulers:
  - name: fastface
    parameters:
      patience_fraction: {choices: [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]}
      decay_factor: {choices: [2, 4, 10]}
"""


def asked(path: Path, sampler: SamplerName, *, side_by_side: int, trials: int = 9) -> list[dict[str, Any]]:
    """Return the parameters of a sweep that runs so many at a time, the latest of which ends first."""
    path.mkdir(exist_ok=True)
    ledger = Ledger.create(path / "study.journal", plan=make_plan(space_from_text(SPACE, file="x"), sampler=sampler))
    running: list[int] = []
    found: list[dict[str, Any]] = []
    while len(found) < trials:
        if len(running) == side_by_side:
            number = running.pop()
            ledger.tell(number, value=number / 10)
        trial = ledger.ask(busy=running)
        assert trial is not None
        assert trial.number == len(found)
        running.append(trial.number)
        found.append(dict(trial.params))
    again = Ledger.open(path / "study.journal").ask(busy=running[:1])
    assert again is not None
    assert (again.number, again.resumed) == (running[1] if running[1:] else trials, bool(running[1:]))
    return found


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_random_search_and_grid_suggest_the_same_however_many_run(tmp_path: Path, sampler: SamplerName) -> None:
    assert asked(tmp_path / "a", sampler, side_by_side=1) == asked(tmp_path / "b", sampler, side_by_side=3)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_other_samplers_know_which_trials_run(tmp_path: Path, sampler: SamplerName) -> None:
    space = SPACE.replace("{choices: [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]}", "{low: 0.05, high: 0.3}")
    space = space.replace("{choices: [2, 4, 10]}", "{low: 2, high: 10}")
    plan = make_plan(space_from_text(space, file="x"), sampler=sampler)
    ledger = Ledger.create(tmp_path / "study.journal", plan=plan)
    for number in range(12):
        assert ledger.ask() is not None
        ledger.tell(number, value=-abs(number - 5.0))
    one, two = ledger.ask(), ledger.ask(busy=[12])
    assert one is not None
    assert two is not None
    assert one.params != two.params
    ledger.tell(13, value=1.0)
    ledger.tell(12, value=2.0)
    fresh = Ledger.open(tmp_path / "study.journal")
    draws = [each._suggester.draw(14, [each._past(t, None) for t in each._trials()]) for each in (ledger, fresh)]
    assert draws[0] == draws[1]  # what was running when others were drawn has left no trace


def test_what_runs_side_by_side_is_filed_and_shown_as_what_runs_in_turn(
    tmp_path: Path, mlflow_store: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fake_sweep.FAILING", -1)  # what failed is not drawn again, but that is known later here
    one = FakeSweep(tmp_path / "one" / "sweep", mlflow_store(tmp_path / "one"))
    one.run()
    one.view.close("FINISHED", timeout=60)
    many = FakeSweep(tmp_path / "many" / "sweep", mlflow_store(tmp_path / "many"), retries=3)
    many.run_side_by_side(3, lose={1: 2, 5: 0})
    many.view.close("FINISHED", timeout=60)
    keep = {"run_id": None, "seconds": 0.0, "shared_with": {}}
    records = [[replace(record, **keep) for record in sweep.ledger.trials()] for sweep in (one, many)]
    settled = [record.number for record in records[0] if record.duplicate_of is None]
    assert [records[0][number] for number in settled] == [records[1][number] for number in settled]
    assert [record.params for record in records[0]] == [record.params for record in records[1]]
    runs = [shown(sweep.tracker.client, sweep.parent)[1:] for sweep in (one, many)]
    assert [run["status"] for run in runs[0]] == [run["status"] for run in runs[1]]
    for number in settled:
        first, second = ({name: run[number]["metrics"][name] for name in ("loss", "lr")} for run in runs)
        assert first == second
    lost = [text for text in many.progress.messages if "its process was lost" in text]
    assert len(lost) == 2
    assert lost[0].startswith("trial 1: its process was lost at step 20; it goes on")


def test_no_more_trials_begin_than_the_budget_has(tmp_path: Path, mlflow_store: Callable[[Path], str]) -> None:
    sweep = FakeSweep(tmp_path / "sweep", mlflow_store(tmp_path))
    jobs = [sweep.source.next_trial() for _ in range(TRIALS + 2)]
    assert [None if job is None else job.number for job in jobs] == [*range(TRIALS), None, None]
    sweep.source.abandon()
    sweep.view.close("KILLED", timeout=60)
    again = FakeSweep(tmp_path / "sweep", sweep.tracker.uri)  # all of them are to go on
    assert [again.source.next_trial() for _ in range(TRIALS + 1)][-1] is None
    assert len(again.ledger.trials()) == TRIALS
    again.view.close("KILLED", timeout=60)


def test_a_trial_that_is_lost_again_and_again_fails_unless_it_gets_further(
    tmp_path: Path, mlflow_store: Callable[[Path], str]
) -> None:
    sweep = FakeSweep(tmp_path / "sweep", mlflow_store(tmp_path), retries=2)
    report = {
        "loss": 1.0, "lr": 0.1, "metrics": [], "steps_executed": 0, "steps_repeated": 0, "steps_shared": 0,
        "shelf": None, "shared_with": [], "messages": [], "deterministic": True,
    }  # fmt: skip
    for steps in (10, 10, 20, 20, 20, 15):
        job = sweep.source.next_trial()
        assert job is not None
        assert job.number == 0
        sweep.source.moved(0, {**report, "steps": steps})
        sweep.source.ended(0, None)
        if sweep.ledger.trial(0).state == "FAIL":
            break
    assert (steps, sweep.ledger.trial(0).reason) == (20, LOST_PROCESS)
    assert len(sweep.progress.messages) == 4
    following = sweep.source.next_trial()
    assert following is not None
    assert following.number == 1
    sweep.source.abandon()
    sweep.view.close("KILLED", timeout=60)


def test_each_trial_that_runs_has_a_line_and_all_of_them_one(
    tmp_path: Path, mlflow_store: Callable[[Path], str]
) -> None:
    sweep = FakeSweep(tmp_path / "sweep", mlflow_store(tmp_path))
    sweep.run_side_by_side(2)
    sweep.view.close("FINISHED", timeout=60)
    records = sweep.ledger.trials()
    said = io.StringIO()
    console = Console(file=said, force_terminal=True, width=200)
    named = {"budget": Budget(trials=TRIALS), "steps": 60, "maximize": True, "metric": "accuracy"}
    with ConsoleProgress(console, **named) as progress:  # type: ignore[arg-type]
        for number in (0, FAILING):
            progress.trial_started(number, records[number].params)
            progress.trial_moved(number, steps=10 + number, shared=0, loss=1.0, lr=0.1)
        text = "".join(map(str, console.render_lines(progress._table())))
        assert f"trial 1 of {TRIALS}  step 10/60" in text
        assert f"trial {FAILING + 1} of {TRIALS}  step {10 + FAILING}/60" in text
        assert "0 ended  best -" in text
        progress.trial_ended(records[FAILING])
        progress.trial_ended(records[0])
    assert f"trial {FAILING + 1} of {TRIALS}: failed: the loss must be finite" in said.getvalue()
    assert f"trial 1 of {TRIALS}: accuracy" in said.getvalue()


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "gpus", lambda: [Gpu(f"GPU-{name}", "H100") for name in "cab"])
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.mark.usefixtures("three_gpus")
@pytest.mark.parametrize(
    ("allowed", "expected"),
    [(None, "cab"), ("2,0", "bc"), ("GPU-a,1", "a"), ("1,7,0", "a"), ("0,-1,1", "c"), ("", ""), ("GPU-b, 1", "ba")],
)
def test_the_gpus_that_may_be_used_are_those_that_cuda_would_use(allowed: str | None, expected: str) -> None:
    environment = {} if allowed is None else {VISIBLE: allowed}
    assert [gpu.id for gpu in visible(environment)] == [f"GPU-{name}" for name in expected]


@pytest.mark.usefixtures("three_gpus")
def test_each_trial_has_a_gpu_to_itself_and_all_of_them_are_locked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"`--concurrent <= 3` must hold, the number of GPUs.* but got 4"):
        wanted_gpus(4)
    wanted = wanted_gpus(2)
    assert [gpu.id for gpu in wanted] == ["GPU-c", "GPU-a"]
    lanes = local_lanes(wanted, concurrent=2, threads=7)
    assert (lanes.number, lanes.on_cpu) == (2, False)
    with device_locks(wanted, sweep=tmp_path):
        assert os.environ[VISIBLE] == "GPU-c,GPU-a"
        monkeypatch.setattr("tuner.sweep.lock.PROBE_SECONDS", 0.0)
        with (
            pytest.raises(UserError, match="one sweep or run at a time may use the GPU"),
            device_locks(wanted_gpus(1), sweep=tmp_path),
        ):
            pass
        assert os.environ[VISIBLE] == "GPU-c,GPU-a"
    assert VISIBLE not in os.environ
    assert is_running(tmp_path) is None


def test_the_processors_are_divided_and_a_sweep_that_goes_on_keeps_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.sweep.lanes.num_cores", lambda: 8)
    assert (
        local_lanes([], concurrent=None, threads=None).threads,
        local_lanes([], concurrent=3, threads=None).threads,
    ) == (8, 2)
    going_on = local_lanes([], concurrent=4, threads=8)
    assert (going_on.number, going_on.threads, going_on.on_cpu) == (4, 8, True)
    assert local_lanes([], concurrent=1, threads=None).retries == 0
    with pytest.raises(UserError, match="`--concurrent <= 8` must hold, the number of processors, but got 9"):
        local_lanes([], concurrent=9, threads=None)


def machines(*each: tuple[int, int]) -> list[Machine]:
    return [Machine(id=str(i), name=f"node{i}", cpus=cpus, gpus=gpus) for i, (cpus, gpus) in enumerate(each)]


@pytest.mark.parametrize(
    ("nodes", "concurrent", "threads", "expected"),
    [
        ([(16, 4), (16, 8)], None, None, Share(12, 2, 1)),
        ([(16, 4), (16, 8)], 3, None, Share(3, 2, 1)),
        ([(8, 0), (4, 0)], None, None, Share(2, 4, 4)),
        ([(8, 0), (4, 0)], 4, None, Share(4, 2, 2)),
        ([(8, 0), (4, 0)], None, 6, Share(2, 6, 4)),
        ([(1, 0), (1, 0)], None, None, Share(2, 1, 1)),
    ],
)
def test_a_cluster_runs_a_trial_for_each_gpu_or_machine(
    nodes: list[tuple[int, int]], concurrent: int | None, threads: int | None, expected: Share
) -> None:
    assert divided(machines(*nodes), concurrent=concurrent, threads=threads) == expected


def test_a_cluster_that_is_too_small_is_told() -> None:
    with pytest.raises(UserError, match="`--concurrent <= 2` must hold, the cluster's number of GPUs, but got 3"):
        divided(machines((8, 2)), concurrent=3, threads=None)
    node = {"NodeID": "a", "NodeManagerHostname": "n", "NodeManagerAddress": "10.0.0.1", "Alive": True, "Resources": {}}
    with pytest.raises(UserError, match="this one has none"):
        able([node, {**node, "Resources": {"CPU": 4.0}, "Alive": False}])
    gpu = {**node, "NodeID": "b", "Resources": {"CPU": 8.0, "GPU": 2.0}}
    assert able([{**node, "Resources": {"CPU": 4.0}}, gpu]) == [Machine(id="b", name="n (10.0.0.1)", cpus=8, gpus=2)]


def test_a_machine_that_differs_or_does_not_see_the_files_is_named() -> None:
    nonces, versions = {Path("/shared/sweep/.n"): "123"}, {"python": "3.11.7", "torch": "2.15.0"}
    good = {"versions": versions, "files": {"/shared/sweep/.n": "123"}, "folder": True}
    check_answer("gpu2 (10.0.0.2)", good, nonces=nonces, versions=versions)
    for change, message in (
        ({"versions": {**versions, "torch": "2.14.1"}}, "the same torch, but gpu2 .* has 2.14.1 and this one 2.15.0"),
        ({"versions": {"python": "3.11.7", "torch": None}}, "the same torch, but gpu2 .* has none and this one 2.15.0"),
        ({"files": {"/shared/sweep/.n": None}}, "must see the folder /shared/sweep, but gpu2 .* does not"),
        ({"files": {"/shared/sweep/.n": "4"}}, "must see the folder /shared/sweep, but gpu2 .* does not"),
        ({"folder": False}, "must see the working folder .*, but gpu2 .* does not"),
    ):
        with pytest.raises(UserError, match=message):
            check_answer("gpu2 (10.0.0.2)", {**good, **change}, nonces=nonces, versions=versions)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "but got one of Ray Client; run the command on a machine of the cluster"),
        ("head", "must be HOST:PORT of a cluster's head, or auto, but got 'head'"),
        ("127.0.0.1:1", "nothing answers at 127.0.0.1:1: .*; start one with `ray start --head`"),
    ],
)
def test_an_address_without_a_cluster_is_told_before_anything_is_made(
    address: str, message: str, tmp_path: Path
) -> None:
    lanes = joined(
        address, concurrent=None, threads=None, folder=tmp_path / "sweep", store=tmp_path / "stages", ending=Ending()
    )
    with pytest.raises(UserError, match=message), lanes:
        pass
    assert [*tmp_path.iterdir()] == []
