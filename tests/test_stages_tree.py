"""The tree alone: a trial shares exactly the longest beginning that any trial before it has in common with it."""

import math
import random
from array import array

from hypothesis import given, settings
from hypothesis import strategies as st
from stages_toy import BASE_LR, alone, common, decaying, lrs, plan, plans

from tuner.stages.tree import Plan, Stage, Tree


def stage(name: str, rows: list[tuple[float, float]], *, parent: str | None = None, first: int = 0) -> Stage:
    """Return a stage of (LR, loss) rows."""
    columns = array("d", (lr for lr, _ in rows)), array("d", (loss for _, loss in rows))
    return Stage(id=name, parent=parent, first=first, lrs=columns[0], losses=columns[1])


def rows(trial: Plan) -> list[tuple[float, float]]:
    return [(report.lr, report.loss) for report in alone(trial)[0]]


def record(tree: Tree, trial: Plan, name: str) -> int:
    """Add what a trial does not find, as a run would, and return how many steps it found."""
    path = tree.walk(trial)
    whole = rows(trial)
    if path.stop < trial.total_steps:
        parent = path.stage_before(path.stop)
        tree.add(stage(name, whole[path.stop :], parent=parent.id if parent else None, first=path.stop))
    return path.stop


@given(st.lists(plans, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_a_trial_shares_the_longest_common_beginning_and_not_one_step_more(trials: list[Plan]) -> None:
    tree = Tree()
    before: list[list[float]] = []
    for number, trial in enumerate(trials):
        wanted = lrs(alone(trial))
        known = max((common(wanted, other) for other in before), default=0)
        assert record(tree, trial, f"{number:02d}") == known
        before.append(wanted)


@given(st.lists(plans, min_size=1, max_size=5), st.randoms())
@settings(max_examples=30, deadline=None)
def test_the_order_in_which_stages_are_found_does_not_matter(trials: list[Plan], shuffler: random.Random) -> None:
    tree = Tree()
    for number, trial in enumerate(trials):
        record(tree, trial, f"{number:02d}")
    stages = list(tree.stages.values())
    shuffler.shuffle(stages)
    shuffled = Tree(stages)
    for trial in trials:
        ids = [[(part.id, stop) for part, stop in each.walk(trial).parts] for each in (tree, shuffled)]
        assert ids[0] == ids[1]
        assert shuffled.walk(trial).stop == trial.total_steps


def test_the_path_names_for_each_step_the_stage_that_executed_the_step_before() -> None:
    tree, early, late = Tree(), decaying(2), decaying(9)
    record(tree, late, "a")
    known = record(tree, early, "b")
    assert 0 < known < 60
    path = tree.walk(early)
    names = [getattr(path.stage_before(step), "id", None) for step in range(62)]
    assert names == [None] + ["a"] * known + ["b"] * (60 - known) + [None]


def test_checkpoints_are_those_on_the_path_and_not_beyond_the_branch() -> None:
    tree, early, late = Tree(), decaying(2), decaying(9)
    record(tree, late, "a")
    known = record(tree, early, "b")
    tree.stages["a"].checkpoints |= dict.fromkeys((2, known, known + 1, 60), "file")
    tree.stages["b"].checkpoints |= dict.fromkeys((known, known + 3, 60), "file")
    path = tree.walk(early)
    found = [(owner.id, step) for owner, step in path.checkpoints(until=known + 10)]
    assert found == [("b", known + 3), ("a", known), ("a", 2)]


def test_of_two_records_of_the_same_steps_the_longer_one_is_taken() -> None:
    whole = rows(decaying())
    for names in ("ab", "ba"):
        tree = Tree([stage(names[0], whole[:20]), stage(names[1], whole[:30])])
        path = tree.walk(decaying())
        assert (path.stop, path.parts[0][0].id) == (30, names[1])


def test_of_two_equally_long_records_the_one_with_the_smaller_id_is_taken() -> None:
    whole = rows(decaying())
    tree = Tree([stage("b", whole), stage("a", whole)])
    assert [part.id for part, _ in tree.walk(decaying()).parts] == ["a"]
    continued = Tree([stage("a", whole[:40]), stage("c", whole[40:], parent="a", first=40), stage("b", whole[:50])])
    assert [part.id for part, _ in continued.walk(decaying()).parts] == ["a", "c"]


def test_a_shorter_trial_ends_within_the_record_of_a_longer_one() -> None:
    tree = Tree([stage("a", rows(decaying(total_steps=61)))])
    path = tree.walk(decaying(total_steps=40))
    assert (path.stop, path.parts[0][1]) == (40, 40)


def test_an_lr_that_differs_in_its_last_bit_shares_nothing() -> None:
    whole = rows(plan("constant"))
    tree = Tree([stage("a", [(math.nextafter(lr, 1), loss) for lr, loss in whole])])
    assert whole[0][0] == BASE_LR
    assert tree.walk(plan("constant")).stop == 0


def test_a_loss_that_is_not_finite_ends_known_ground_and_is_told() -> None:
    whole = rows(decaying())
    tree = Tree([stage("a", [*whole[:20], (whole[20][0], math.inf)])])
    path = tree.walk(decaying())
    assert (path.stop, path.diverged) == (20, math.inf)
    assert Tree([stage("a", [(BASE_LR, math.inf)])]).walk(decaying()).diverged == math.inf


def test_stages_without_their_beginning_are_orphans_and_never_found() -> None:
    whole = rows(decaying())
    lost = [stage("c", whole[30:], parent="b", first=30), stage("d", whole[25:], parent="a", first=25)]
    tree = Tree([stage("a", whole[:20]), *lost])
    assert tree.orphans() == lost
    assert tree.walk(decaying()).stop == 20
