"""Which settings of a scheduler matter, and where they may lie: one at a time around the best, under several seeds.

    1. a search of this tool around the space, and random settings of it, under seed 0
    2. importance of each setting by PED-ANOVA over the random ones (Optuna's, arXiv 2304.10255): how much it decides
       whether a setting is among the better quarter; a share of 1 is divided among all
    3. one at a time: each setting at each of several values over its range, all others as in the best setting of 1,
       under seeds that 1 has not used, paired by seed with the best setting itself; `--also` adds settings that the
       space does not search

The *flat region* of a setting is the stretch of values around the best one's in which the mean loss of accuracy stays
within 0.005, half of the 1 % that the claim allows. Where the best setting lies at the end of a range, or the flat
region reaches it, the range may be too narrow.

    python benchmarks/sensitivity.py --out claims/sensitivity                     # an hour on one idle core
    python benchmarks/sensitivity.py --out claims/sensitivity_haar --space haar
    python benchmarks/sensitivity.py --out small --small                          # seconds
"""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from claims import Bench, Unit, about, parser, prepare_data, print_plan, sharing_line
from claims_view import View
from claims_worker import Found, Worker, one_thread
from laboratory import once
from sensitivity_figures import draw
from sensitivity_statistics import Point, importances, levels, points, table

from tuner.config.space_file import load_space
from tuner.names import METRIC_ACCURACY, SYNTHETIC
from tuner.search.plan import Assignment, Plan, assignment, make_plan, planned_workload, run_config
from tuner.search.samplers import Past, Suggester
from tuner.search.space import parameters
from tuner.sweep.data import absolute_data

SETTINGS_SEED = 3000
SHARED = 0.65


def main(arguments: Sequence[str] | None = None) -> None:
    """Search, vary, compare."""
    options = parser(__doc__)
    options.add_argument("--space", default="fastface", help="search space with one scheduler")
    options.add_argument("--data", default=SYNTHETIC, help="faces: a folder, or rendered ones")
    options.add_argument("--steps", type=int, default=None, help="steps of a run [default: the space's]")
    options.add_argument("--trials", type=int, default=None, help="of the search [default: 16]")
    options.add_argument("--settings", type=int, default=None, help="random settings [default: 40]")
    options.add_argument("--levels", type=int, default=None, help="values over a range [default: 5]")
    options.add_argument("--seeds", type=int, default=None, help="seeds of the variations [default: 5]")
    options.add_argument(
        "--also", action="append", default=[], metavar="NAME=V,V", help="vary a setting that is not searched, too"
    )
    given = options.parse_args(arguments)
    small = given.small
    given.steps = given.steps or (16 if small else load_space(given.space).steps)
    given.trials = given.trials or (3 if small else 16)
    given.settings = given.settings or (6 if small else 40)
    given.levels = given.levels or (2 if small else 5)
    given.seeds = given.seeds or (2 if small else 5)
    given.jobs = given.jobs or (1 if small else 2)
    run(given)


def run(options: Namespace) -> None:
    """Do what the options say."""
    one_thread()
    plan = plan_for(options)
    around: dict[str, Sequence[Any]] = {
        entry.setting: levels(entry, options.levels) for entry in parameters(plan.space, plan.space.schedulers[0].name)
    }
    for each in options.also:
        name, _, values = each.partition("=")
        around[name] = [json.loads(value) for value in values.split(",")]
    first = [
        Unit(
            name="search",
            steps=options.trials * plan.steps,
            evaluations=options.trials,
            share=SHARED,
            work=partial(do_search, plan=plan, trials=options.trials),
        ),
        Unit(
            name="random",
            steps=options.settings * plan.steps,
            evaluations=options.settings,
            share=SHARED,
            work=partial(do_random, plan=plan, number=options.settings),
        ),
    ]
    expected = variation_units(options, plan, around, best=None)
    if options.plan:
        print_plan([*first, *expected], jobs=options.jobs)
        return
    print(about(options))
    print(prepare_data(planned_workload(plan)))
    bench = Bench(options.out, jobs=options.jobs, steps=sum(unit.steps for unit in (*first, *expected)))
    given = {name: value for name, value in vars(options).items() if name not in ("out", "plan")}
    with View(options.out, name="sensitivity", question=(__doc__ or "").splitlines()[0], params=given) as view:
        found = bench.do(first, heard=view.add)
        best = better(plan, Found(**found["search"]), found["random"])
        units = variation_units(options, plan, around, best=best)
        varied = bench.do(units, heard=view.add)
    report(options, bench, view, plan, best, found["random"], [varied[unit.name] for unit in units])


def plan_for(options: Namespace) -> Plan:
    """Return the search around which settings are varied."""
    space = load_space(options.space)
    if options.small:
        space = space.model_copy(update={"workload": load_space("smoke").workload})
    return make_plan(space, steps=options.steps, data=absolute_data(options.data))


def variation_units(
    options: Namespace, plan: Plan, around: Mapping[str, Sequence[Any]], *, best: Found | None
) -> list[Unit]:
    """Return the variations, a unit for each seed; without `best`, what they would cost."""
    number = 1 + sum(map(len, around.values()))
    return [
        Unit(
            name=f"seed {seed}",
            steps=number * plan.steps,
            evaluations=number,
            share=SHARED,
            work=partial(do_variations, plan=plan, best=best, around=around, seed=seed),
        )
        for seed in range(1, 1 + options.seeds)
    ]


def do_search(worker: Worker, *, plan: Plan, trials: int) -> dict[str, Any]:
    """Return what the search found."""
    return asdict(worker.search(plan, trials=trials))


def do_random(worker: Worker, *, plan: Plan, number: int) -> list[dict[str, Any]]:
    """Return random points of the space and their values."""
    suggester, past = Suggester(plan.space, sampler="random", seed=SETTINGS_SEED), list[Past]()
    found = []
    for index in range(number):
        params = suggester.draw(index, past) or {}
        past.append(Past(index, params, 0.0, drawn=True))
        config = once(run_config(plan, assignment(plan, params)))
        trained = worker.train(config, label=f"setting {index}", about={"part": "random"})
        found.append({"params": params, "value": trained.metrics.get(METRIC_ACCURACY)})
    return found


def better(plan: Plan, best: Found, drawn: Sequence[Mapping[str, Any]]) -> Found:
    """Return the best setting of all that seed 0 has seen: the search's, or a random one of a higher value."""
    found = max(drawn, key=lambda each: each["value"] or 0.0)
    if (found["value"] or 0.0) <= best.value:
        return best
    chosen = assignment(plan, found["params"])
    searched = {name: value for name, value in found["params"].items() if name != "base_lr"}
    return replace(
        best, settings=dict(chosen.settings), base_lr=chosen.base_lr, value=found["value"], searched=searched, trial=-1
    )


def do_variations(
    worker: Worker, *, plan: Plan, best: Found | None, around: Mapping[str, Sequence[Any]], seed: int
) -> list[dict[str, Any]]:
    """Return the accuracy of the best setting, then with each setting at each of its values."""
    if best is None:
        raise ValueError("a best setting must be known to vary it")
    seeded, found = replace(plan, seed=seed), []
    varied = [("", None), *((name, level) for name, values in around.items() for level in values)]
    for name, level in varied:
        settings = {**best.settings, **({name: level} if name not in ("", "base_lr") else {})}
        base_lr = float(level) if name == "base_lr" and level is not None else best.base_lr
        config = once(run_config(seeded, Assignment(best.scheduler, settings, base_lr)))
        label = "best" if not name else f"{name} {level:.4g}" if isinstance(level, float) else f"{name} {level}"
        about = {"part": "variation", "varied": name or "nothing", "level": level if name else 0}
        trained = worker.train(config, label=label, about=about)
        found.append({"varied": name, "level": level, "value": trained.metrics.get(METRIC_ACCURACY)})
    return found


def report(
    options: Namespace,
    bench: Bench,
    view: View,
    plan: Plan,
    best: Found,
    drawn: Sequence[Mapping[str, Any]],
    varied: Sequence[Sequence[Mapping[str, Any]]],
) -> None:
    """Print the table, draw the figure, keep the results."""
    entries = parameters(plan.space, best.scheduler)
    centre = {**best.settings, "base_lr": best.base_lr}
    found: dict[str, list[Point]] = points(varied, centre=centre)
    shares = importances(entries, drawn)
    sharing = bench.sharing()
    values = ", ".join(f"{row[0]['value']:.4f}" if row[0]["value"] is not None else "failed" for row in varied)
    head = [
        about(options),
        "",
        f"{options.space}, {Path(options.data).name}, {plan.steps} steps; best of {best.trials + len(drawn)}: "
        f"{best.value:.4f} under seed 0, {values} under seeds 1 to {options.seeds}",
    ]
    text = (
        "\n".join([*head, "", table(found, shares, centre=centre, entries=entries), "", sharing_line(sharing)]) + "\n"
    )
    figure = draw(view.collect(METRIC_ACCURACY), found, centre=centre, path=options.out / "sensitivity.png")
    results = {
        "about": about(options),
        "best": asdict(best),
        "importances": shares,
        "random": drawn,
        "points": {name: [asdict(point) for point in row] for name, row in found.items()},
        "sharing": sharing,
    }
    (options.out / "sensitivity.json").write_text(json.dumps(results, indent=1))
    (options.out / "sensitivity.md").write_text(text)
    view.publish(options.out / "sensitivity.json", options.out / "sensitivity.md", figure)
    print(text)


if __name__ == "__main__":
    main()
