"""Tests the promise that tuned FastFace has the accuracy of a full run, within 1 %, in a quarter of the steps.

    T     multi-step, cosine and polynomial, each at the best of five base LRs
    T/4   FastFace, the windowed form and FastFace with a cooldown, each tuned by a search of this tool: base LR and
          settings
          the same three schedules compressed, base LR and settings tuned with as many trials
          the published settings of both published forms, scaled to the run, not tuned, deciding on any step

The spaces are the shipped ones with the base LR added to what is searched; all six searches at T/4 are cost-aware ones
of as many trials. Searches train under seed 0, evaluations under ten others, common to all methods. The rule of
judgement is that of `quarter_rule.py`, whose text was there before the first run.

    python benchmarks/quarter_budget.py --out claims/rendered                                # an hour on two cores
    python benchmarks/quarter_budget.py --out claims/orl --data ../shared/data/orl_faces --steps 800
    python benchmarks/quarter_budget.py --out small --small                                       # half a minute
"""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from claims import Bench, Unit, about, of_size, parser, prepare_data, print_plan, sharing_line
from claims_view import View
from claims_worker import Found, Worker, one_thread
from laboratory import once
from quarter_figures import draw, steps_to_full_loss
from quarter_rule import FAILED, judge, verdict_table

from tuner.analysis.confirmation import confirm
from tuner.config.space_file import load_space
from tuner.config.space_model import Domain, SchedulerSpace, SpaceFile
from tuner.names import METRIC_ACCURACY, METRIC_FINAL_LOSS, METRIC_TAR, SYNTHETIC
from tuner.search.plan import Plan, make_plan, planned_workload, reference, run_config
from tuner.sweep.data import absolute_data

BASE_LRS = (0.05, 0.1, 0.2, 0.4, 0.8)
FIXED = ("multi_step", "cosine", "polynomial")
DETECTORS = ("fastface", "haar", "fastface_cooldown")
PUBLISHED = ("fastface", "haar")
SEARCH_SEED = 0
FIRST_SEED = 1001
"""Of the evaluation seeds, far from those of any search."""
SHARED = 0.75
"""The share of the steps of a detector's search that is expected to be trained; measured in `decision_grid.py`: 0.6."""
METRICS = (METRIC_ACCURACY, METRIC_TAR, METRIC_FINAL_LOSS)


def main(arguments: Sequence[str] | None = None) -> None:
    """Search, evaluate, judge."""
    options = parser(__doc__)
    options.add_argument("--data", nargs="+", default=[SYNTHETIC], help="data sets; a folder that is away is left out")
    options.add_argument("--image-size", type=int, default=32, help="side of the images in pixels [default: 32]")
    options.add_argument("--steps", type=int, default=None, help="T, a multiple of 4 [default: 1600]")
    options.add_argument("--trials", type=int, default=None, help="of each search at T/4 [default: 20]")
    options.add_argument("--seeds", type=int, default=None, help="evaluation seeds [default: 10]")
    run(_filled(options.parse_args(arguments)))


def _filled(options: Namespace) -> Namespace:
    small = options.small
    options.steps = options.steps or (48 if small else 1600)
    options.trials = options.trials or (3 if small else 20)
    options.seeds = options.seeds or (2 if small else 10)
    options.jobs = options.jobs or (1 if small else 2)
    options.base_lrs = (0.1, 0.2) if small else BASE_LRS
    options.space = "smoke" if small else None
    there = [data for data in options.data if data == SYNTHETIC or Path(data).is_dir()]
    print("".join(f"left out, for it is not there: {data}\n" for data in options.data if data not in there), end="")
    options.data = there
    return options


def run(options: Namespace) -> None:
    """Do what the options say."""
    one_thread()
    searches = {data: search_units(options, data) for data in options.data}
    flat = [unit for units in searches.values() for unit in units]
    expected = [unit for data in options.data for unit in evaluation_units(options, data, {})]
    if options.plan:
        print_plan([*flat, *expected], jobs=options.jobs)
        return
    print(about(options))
    print(
        "\n".join(
            f"{data}: {prepare_data(planned_workload(plan_for(options, data, 'cosine')))}" for data in options.data
        )
    )
    bench = Bench(options.out, jobs=options.jobs, steps=sum(unit.steps for unit in (*flat, *expected)))
    given = {name: value for name, value in vars(options).items() if name not in ("out", "plan")}
    with View(options.out, name="quarter budget", question=(__doc__ or "").splitlines()[0], params=given) as view:
        found = bench.do(flat, heard=view.add)
        evaluations = {
            data: evaluation_units(options, data, {unit.name: Found(**found[unit.name]) for unit in units})
            for data, units in searches.items()
        }
        values = bench.do([unit for units in evaluations.values() for unit in units], heard=view.add)
    report(
        options,
        bench,
        view,
        found,
        {data: [values[unit.name] for unit in units] for data, units in evaluations.items()},
    )


def plan_for(options: Namespace, data: str, scheduler: str, *, full: bool = False) -> Plan:
    """Return the search of one scheduler: at T its base LR alone, on a grid; at T/4 its settings as well."""
    shipped = load_space(scheduler if scheduler in DETECTORS else "baselines")
    entry = next(each for each in shipped.schedulers if each.name == scheduler)
    workload = shipped.workload if options.space is None else load_space(options.space).workload
    space = SpaceFile(
        question=f"Which {scheduler} schedule serves a run of this length best?",
        source=shipped.source,
        objective=shipped.objective,
        workload=of_size(workload, options.image_size),
        base_lr=Domain(choices=options.base_lrs),
        decision_grid=load_space("fastface").decision_grid,
        schedulers=(SchedulerSpace(name=scheduler) if full else entry,),
    )
    return make_plan(
        space,
        steps=options.steps if full else options.steps // 4,
        seed=SEARCH_SEED,
        sampler="grid" if full else "tpe",
        cost_aware=not full,
        data=absolute_data(data),
    )


def search_units(options: Namespace, data: str) -> list[Unit]:
    """Return the searches on a data set, the longest first."""
    units = []
    for full, names in ((True, FIXED), (False, (*DETECTORS, *FIXED))):
        for name in names:
            trials = len(options.base_lrs) if full else options.trials
            plan = plan_for(options, data, name, full=full)
            method = method_name(name, full=full)
            units.append(
                Unit(
                    name=f"{Path(data).name} search {method}",
                    steps=trials * plan.steps,
                    evaluations=trials,
                    share=SHARED if name in DETECTORS else 1.0,
                    work=partial(do_search, plan=plan, trials=trials, method=method),
                )
            )
    return units


def do_search(worker: Worker, *, plan: Plan, trials: int, method: str) -> dict[str, Any]:
    """Search; return what was found."""
    return asdict(worker.search(plan, trials=trials, about={"method": method}))


def evaluation_units(options: Namespace, data: str, found: Mapping[str, Found]) -> list[Unit]:
    """Return the evaluations on a data set, a unit for each seed and length; without `found`, what they would cost."""
    units = []
    for seed in range(FIRST_SEED, FIRST_SEED + options.seeds):
        for full in (True, False):
            names = FIXED if full else (*DETECTORS, *FIXED)
            chosen = []
            for name in names:
                plan, method = plan_for(options, data, name, full=full), method_name(name, full=full)
                search = f"{Path(data).name} search {method}"
                chosen += [(method, found[search].config(plan, seed=seed))] if search in found else []
                if name in PUBLISHED:
                    plain = replace(plan, decision_grid=0, seed=seed)
                    chosen.append((published_name(name), once(run_config(plain, reference(plain, name)))))
            number = len(names) + (0 if full else len(PUBLISHED))
            units.append(
                Unit(
                    name=f"{Path(data).name} seed {seed} {'T' if full else 'T4'}",
                    steps=number * (options.steps if full else options.steps // 4),
                    evaluations=number,
                    work=partial(do_evaluate, chosen=chosen),
                )
            )
    return units


def do_evaluate(worker: Worker, *, chosen: Sequence[tuple[str, Any]]) -> dict[str, dict[str, float] | None]:
    """Train each setting; return the metrics by method, None where it failed."""
    found: dict[str, dict[str, float] | None] = {}
    for method, config in chosen:
        trained = worker.train(config, label=method, about={"method": method, "part": "evaluation"})
        found[method] = None if trained.failure else dict(trained.metrics)
    return found


def method_name(scheduler: str, *, full: bool) -> str:
    """Return what a tuned schedule is called in tables."""
    return f"{scheduler} at {'T' if full else 'T/4'}"


def published_name(scheduler: str) -> str:
    """Return what a published setting is called in tables."""
    return f"{scheduler} published at T/4"


def report(
    options: Namespace,
    bench: Bench,
    view: View,
    found: Mapping[str, Any],
    values: Mapping[str, Sequence[Mapping[str, Any]]],
) -> None:
    """Print the tables, draw the figures, keep the results."""
    results: dict[str, Any] = {"about": about(options), "searches": found}
    lines, figures = [str(results["about"])], []
    collected = view.collect(METRIC_ACCURACY)
    methods = [
        *(method_name(name, full=True) for name in FIXED),
        *(method_name(name, full=False) for name in (*DETECTORS, *FIXED)),
        *(published_name(name) for name in PUBLISHED),
    ]
    for data, units in values.items():
        short = Path(data).name
        table = by_method(units, methods)
        accuracy = {method: [row[METRIC_ACCURACY] for row in table[method]] for method in methods}
        verdicts = judge(
            accuracy,
            candidates=[method_name(name, full=False) for name in DETECTORS],
            full=[method_name(name, full=True) for name in FIXED],
            compressed=[method_name(name, full=False) for name in FIXED],
        )
        full = [method_name(name, full=True) for name in FIXED]
        best = max(full, key=lambda name: sum(value or FAILED for value in accuracy[name]))
        reached = steps_to_full_loss(collected, data=short, methods=methods, best=best)
        settings = {
            name.removeprefix(f"{short} search "): each for name, each in found.items() if name.startswith(short)
        }
        lines += [
            "",
            f"### {short}",
            "",
            method_table(table, settings, reached, best=best),
            "",
            verdict_table(verdicts),
        ]
        figures.append(draw(collected, accuracy, data=short, path=options.out / f"quarter_budget_{short}.png"))
        results[short] = {
            "values": table,
            "verdicts": [asdict(verdict) for verdict in verdicts],
            "steps_to_the_loss_of": {"method": best, "steps": reached},
        }
    results["sharing"] = bench.sharing()
    lines += ["", sharing_line(results["sharing"])]
    text = "\n".join(lines) + "\n"
    (options.out / "quarter_budget.json").write_text(json.dumps(results, indent=1))
    (options.out / "quarter_budget.md").write_text(text)
    view.publish(options.out / "quarter_budget.json", options.out / "quarter_budget.md", *figures)
    print(text)


def by_method(units: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> dict[str, list[dict[str, float | None]]]:
    """Return the metrics by method, a row for each seed: units hold one seed and one length each."""
    found: dict[str, list[dict[str, float | None]]] = {method: [] for method in methods}
    for unit in units:
        for method, metrics in unit.items():
            found[method].append({name: None if metrics is None else metrics[name] for name in METRICS})
    return found


def method_table(
    table: Mapping[str, Sequence[Mapping[str, float | None]]],
    settings: Mapping[str, Any],
    reached: Mapping[str, Sequence[int | None]],
    *,
    best: str,
) -> str:
    """Return a row for each method: means with their intervals, and the steps to the best full run's loss."""
    lines = [
        f"| method | setting | accuracy | TAR at FAR | final loss | steps to the final loss of {best} |",
        "|---|---|---|---|---|---|",
    ]
    for method, rows in table.items():
        found = settings.get(method)
        setting = (
            "published" if found is None else ", ".join([f"base LR {found['base_lr']:g}", *_short(found["searched"])])
        )
        cells = " | ".join(_mean([row[name] for row in rows]) for name in METRICS)
        there = sorted(steps for steps in reached[method] if steps is not None)
        when = f"{there[len(there) // 2]} ({len(there)} of {len(rows)} seeds)" if there else "never"
        lines.append(f"| {method} | {setting} | {cells} | {when} |")
    return "\n".join(lines)


def _mean(values: Sequence[float | None]) -> str:
    matrix = [[float("nan") if value is None else value for value in values]]
    mean = confirm(matrix, published=0, chosen=[], searched=[None], maximize=True).means[0]
    if mean is None:
        return "failed"
    spread = "" if mean.interval is None else f" ± {mean.interval.high - mean.mean:.4f}"
    failed = "" if mean.seeds == len(values) else f" ({len(values) - mean.seeds} failed)"
    return f"{mean.mean:.4f}{spread}{failed}"


def _short(settings: Mapping[str, Any]) -> list[str]:
    named = {key.removesuffix("_fraction").replace("_", " "): value for key, value in settings.items()}
    return [f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in named.items()]


if __name__ == "__main__":
    main()
