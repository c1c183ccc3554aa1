"""What others have made is data: it is not run, it cannot make this tool write elsewhere, and nobody else is let in."""

import ast
import json
import os
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle, tune
from ray._raylet import AuthenticationMode, get_authentication_mode
from stages_toy import FINGERPRINT, plan, quick_disk, shared  # noqa: F401
from test_data_folder import load, make_root
from test_ledger import plan_of, run, sealed

import tuner
from tuner.cli.main import main
from tuner.curves import CurveWriter
from tuner.data.cache import default_cache
from tuner.errors import UserError
from tuner.files import GrowingFile
from tuner.search.ledger import Ledger
from tuner.stages.store import StageStore
from tuner.stages.upkeep import prune
from tuner.sweep.ending import Ending
from tuner.sweep.executor import execute
from tuner.sweep.jobs import Job
from tuner.sweep.ray_processes import RayProcesses

PICKLES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "jsonpickle"}
LOADS = {"json", "yaml", "torch", "np", "numpy"}
"""Modules whose `load` and `loads` are looked at one by one."""
RUN = {"eval", "exec", "compile", "__import__"}
NEVER = {
    "read_pickle", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all", "Loader", "FullLoader",
    "UnsafeLoader", "system", "popen", "extractall", "unpack_archive", "load_model", "load_module", "fromfile",
}  # fmt: skip


def offences(source: str) -> list[str]:
    """Return what in a module could run code from a file, with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
            found += [f"{node.lineno}: {each}" for each in modules if each.split(".")[0] in PICKLES]
            if isinstance(node, ast.ImportFrom):
                found += [f"{node.lineno}: {each}" for each in names if each in PICKLES | NEVER]
        elif isinstance(node, ast.Attribute) and node.attr in NEVER:
            found.append(f"{node.lineno}: {node.attr}")
        elif isinstance(node, ast.Call):
            found += [f"{node.lineno}: {problem}" for problem in _call(node)]
    return found


def _call(node: ast.Call) -> Iterator[str]:
    given = {each.arg: each.value.value for each in node.keywords if isinstance(each.value, ast.Constant)}
    if isinstance(node.func, ast.Name) and node.func.id in RUN:
        yield node.func.id
    if given.get("shell") or given.get("allow_pickle"):
        yield "shell or allow_pickle"
    if isinstance(node.func, ast.Attribute) and node.func.attr in {"load", "loads"}:
        module = ast.unparse(node.func.value)
        if module == "torch" and given.get("weights_only") is not True:
            yield "torch.load without weights_only"
        if module in {"np", "numpy"} and given.get("allow_pickle") is not False:
            yield "numpy.load without allow_pickle=False"
        if module == "yaml" or module.startswith("torch."):
            yield f"{module}.load"


@pytest.mark.parametrize("path", sorted(Path(tuner.__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_no_module_can_run_code_from_a_file(path: Path) -> None:
    found = offences(path.read_text())
    allowed = {
        # for the error that `torch.load` raises on what it refuses
        "checkpoint.py": "UnpicklingError",
        "weights.py": "UnpicklingError",
        # opcodes, for a reader that calls nothing which a pickle names (tests/test_verification_sets.py)
        "restricted_pickle.py": r"UnpicklingError|_Unpickler(\.dispatch)?|[A-Z0-9_]+",
    }
    if path.name in allowed:
        uses = {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        used = {use.removeprefix("pickle.") for use in uses if use.startswith("pickle.")}
        assert {use for use in used if not re.fullmatch(allowed[path.name], use)} == set()
        found = [each for each in found if not each.endswith(": pickle")]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import ray.cloudpickle as c\nfrom ray import cloudpickle",
        "import torch\ntorch.load(f)",
        "torch.load(f, weights_only=False)",
        "np.load(f)",
        "np.load(f, allow_pickle=True)",
        "np.lib.format.read_array(f, allow_pickle=True)",
        "yaml.load(f, Loader=X)",
        "yaml.unsafe_load(f)",
        "eval('1')",
        "subprocess.run('ls', shell=True)",
        "os.system('ls')",
        "tarfile.open(f).extractall()",
        "torch.jit.load(f)",
    ],
)
def test_that_would_be_noticed(source: str) -> None:
    assert offences(source)


class Attack:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self._mark),)


def test_a_pickle_in_a_journal_is_never_loaded(tmp_path: Path) -> None:
    """Optuna keeps the state of its CMA-ES sampler as a pickle in the trials, and would load it from there."""
    path = tmp_path / "study.journal"
    run(Ledger.create(path, plan=plan_of(sampler="cmaes")), 6)
    attack = pickle.dumps(Attack(tmp_path / "attacked")).hex()
    lines = []
    for line in path.read_bytes().splitlines():
        record = json.loads(line)
        if "system_attrs" in record:
            record["system_attrs"] = {"cma:optimizer:0": attack, "cma:generation": 0}
        lines.append(sealed(record))
    assert attack in b"".join(lines).decode()
    path.write_bytes(b"".join(lines))
    run(Ledger.open(path), 10)
    assert not (tmp_path / "attacked").exists()


def test_a_data_folder_writes_nothing_outside_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTFACE_TUNER_CACHE", str(tmp_path / "cache"))
    root = make_root(tmp_path / "faces", identities=4, images=2)
    for name in ("..b", "a; touch x", "$(touch x)", "\x1b]0;x\x07", "new\nline", "p\udc80"):
        (root / "p0").rename(root / name)
        make_root(tmp_path / name.encode().hex() if name.isascii() else tmp_path / "other", identities=1, images=1)
        (tmp_path / (name.encode().hex() if name.isascii() else "other") / "p0").rename(root / "p0")
    before = {path for path in tmp_path.rglob("*") if (tmp_path / "cache") not in (path, *path.parents)}
    load(root)
    after = {path for path in tmp_path.rglob("*") if (tmp_path / "cache") not in (path, *path.parents)}
    assert after == before
    assert default_cache() == tmp_path / "cache"
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_link_in_the_place_of_a_cache_entry_is_not_written_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTFACE_TUNER_CACHE", str(tmp_path / "cache"))
    root = make_root(tmp_path / "faces")
    first = load(root)
    (entry,) = (tmp_path / "cache").iterdir()
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "images.npy").write_text("mine")
    for path in (*entry.iterdir(), entry):
        path.unlink() if path.is_file() else path.rmdir()
    entry.symlink_to(precious)
    assert load(root).digest == first.digest
    assert [path.name for path in precious.iterdir()] == ["images.npy"]
    assert (precious / "images.npy").read_text() == "mine"


@pytest.mark.parametrize("trap", ["pipe", "device"])
def test_an_image_that_is_no_file_is_not_waited_for(tmp_path: Path, trap: str) -> None:
    root = make_root(tmp_path / "faces")
    if trap == "pipe":
        os.mkfifo(root / "p1" / "x.png")
    else:
        (root / "p1" / "x.png").symlink_to("/dev/zero")
    with pytest.raises(UserError, match="not a regular file"):
        load(root)


def test_a_name_with_control_characters_is_shown_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_root(tmp_path / "faces")
    (root / "p1" / "a\n\x1b[2Jb.png").write_bytes(b"no image")
    monkeypatch.setattr(sys, "argv", ["fastface-tuner", "sweep", "smoke", "--data", str(root)])
    with pytest.raises(SystemExit):
        main()
    errors = capsys.readouterr().err
    assert len(errors.splitlines()) == 1
    assert "\x1b" not in errors
    assert r"a\n\x1b[2Jb.png" in errors


@pytest.mark.parametrize("writer", [GrowingFile, CurveWriter])
def test_a_link_in_the_place_of_a_state_file_is_not_written_through(tmp_path: Path, writer: Any) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "curve.csv").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        writer(tmp_path / "curve.csv")
    assert (tmp_path / "precious").read_text() == "mine"


@pytest.mark.parametrize("name", ["../up", "..", "/abs", "a/b", "", ".hidden", "a\nb", "-x"])
def test_a_sweeps_name_is_no_path(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["fastface-tuner", "sweep", "smoke", f"--name={name}", "--data", "nowhere"])
    with pytest.raises(SystemExit):
        main()
    errors = capsys.readouterr().err
    assert ("name" in errors) or (name == "" and "nowhere" in errors)
    assert list(tmp_path.iterdir()) == []


def test_pruning_follows_no_link(tmp_path: Path) -> None:
    store = StageStore(tmp_path / "stages")
    shared(plan(), store.shelf(FINGERPRINT))
    (shelf,) = store.folders()
    elsewhere = shelf.rename(tmp_path / "elsewhere")
    shelf.symlink_to(elsewhere)
    report = prune(StageStore(tmp_path / "stages"), shelves=[shelf.name])
    assert report.shelves == (shelf.name,)
    assert not shelf.is_symlink()
    assert any(elsewhere.rglob("steps.bin"))


def test_the_key_of_a_shelf_is_no_path(tmp_path: Path) -> None:
    for key in ("..", "../" + "0" * 29, "/" + "0" * 31, "0" * 31 + "\n"):
        with pytest.raises(ValueError, match="32 hexadecimal digits"):
            StageStore(tmp_path).tree(key)
    with pytest.raises(UserError):
        prune(StageStore(tmp_path), shelves=["../x"])


class Quick(tune.Trainable):
    """Reports once."""

    def setup(self, config: dict[str, Any]) -> None:
        """Need nothing."""

    def reset_config(self, _: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        return {"done": True}


class Listening:
    """One trial, during which it is noted on which addresses this process and its descendants listen."""

    def __init__(self) -> None:
        self.addresses: set[str] | None = None
        self.given = False

    def next_trial(self) -> Job | None:
        if self.given:
            return None
        self.given = True
        return Job(0, {})

    def moved(self, *_: Any) -> None:
        """Hear nothing."""

    def ended(self, *_: Any) -> None:
        self.addresses = listening(descendants(os.getpid()))


def descendants(process: int) -> set[int]:
    parents = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
    found = {process}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found


def listening(processes: set[int]) -> set[str]:
    """Return the local addresses, in the kernel's hexadecimal, of the listening TCP sockets of some processes."""
    sockets = set()
    for process in processes:
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(str(link.readlink()))
            except OSError:
                continue
    addresses = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                addresses.add(fields[1].rpartition(":")[0])
    return addresses


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="the kernel's table of sockets is Linux's")
def test_whatever_a_sweep_serves_listens_on_loopback_only_and_wants_a_token() -> None:
    ray.shutdown()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    source, ending = Listening(), Ending()
    try:
        with RayProcesses(ending) as processes:
            processes.begin()
            execute(source, Quick, ending=ending, processes=processes)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        ray.shutdown()
    loopback = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
    assert source.addresses
    assert source.addresses <= loopback
    assert get_authentication_mode() == AuthenticationMode.TOKEN
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
