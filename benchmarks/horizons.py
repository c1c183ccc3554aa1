"""Does what a short run finds hold on a long one? Thirty FastFace settings at T/16, T/4 and T, under several seeds.

    scale-free   the settings as the shipped space has them, fractions of the run: they stretch with its length
    unscaled     windows and thresholds in steps, as the released code has its constants, made for T and used as they
                 are on the short runs; patience is a share of the run in the released code, and here
    truncated    the long run itself, judged by an evaluation at T/16 or T/4 of it: what pruning would do

For each way of looking ahead: the rank correlation (Spearman) of the short values with the long ones, and the *regret*,
how much accuracy on the long run is lost by taking the setting that looked best early. The choice is made under one
seed, as by one search, and judged by the long runs of the other seeds, so that a seed's luck is not counted as
knowledge. The regret of choosing by the long runs themselves is what noise alone costs. Settings that tie for the best
count by their mean.

    python benchmarks/horizons.py --out claims/horizons                            # an hour on two idle cores
    python benchmarks/horizons.py --out small --small                              # seconds
"""

import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from claims import Bench, Unit, about, of_size, parser, prepare_data, print_plan, sharing_line
from claims_view import View
from claims_worker import Worker, one_thread
from horizons_figures import draw
from horizons_statistics import Judged, halving_regret, judged, table
from laboratory import once

from tuner.config.space_file import load_space
from tuner.evaluations import read_evaluations
from tuner.names import EVALUATIONS_FILE, METRIC_ACCURACY, SYNTHETIC, Setting
from tuner.schedulers.scale import rescale
from tuner.search.plan import Assignment, Plan, assignment, make_plan, planned_workload, reference, run_config
from tuner.search.samplers import Past, Suggester
from tuner.sweep.data import absolute_data

SETTINGS_SEED = 2000
PARTS = (16, 4, 1)
"""The lengths are T / part."""
SHARED = 0.65
"""The share of the steps of random settings that is trained; measured in `decision_grid.py`."""
IN_STEPS = ("ema_window", "haar_window", "threshold")
"""What the released code has as constants."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Train all settings at all lengths; compare."""
    options = parser(__doc__)
    options.add_argument("--data", default=SYNTHETIC, help="faces: a folder, or rendered ones")
    options.add_argument("--image-size", type=int, default=32, help="side of the images in pixels [default: 32]")
    options.add_argument("--steps", type=int, default=None, help="T, a multiple of 16 [default: 1280]")
    options.add_argument("--settings", type=int, default=None, help="the published one, and random ones [default: 30]")
    options.add_argument("--seeds", type=int, default=None, help="training seeds [default: 3]")
    given = options.parse_args(arguments)
    small = given.small
    given.steps = given.steps or (96 if small else 1280)
    given.settings = given.settings or (4 if small else 30)
    given.seeds = given.seeds or (2 if small else 3)
    given.jobs = given.jobs or (1 if small else 2)
    run(given)


def run(options: Namespace) -> None:
    """Do what the options say."""
    one_thread()
    plan = plan_for(options)
    chosen = drawn(plan, options.settings)
    long = [long_unit(plan, chosen, seed) for seed in range(1, 1 + options.seeds)]
    short = [short_unit(plan, chosen, seed, firsts={}) for seed in range(1, 1 + options.seeds)]
    if options.plan:
        print_plan([*long, *short], jobs=options.jobs)
        return
    print(about(options))
    print(prepare_data(planned_workload(plan)))
    bench = Bench(options.out, jobs=options.jobs, steps=sum(unit.steps for unit in (*long, *short)))
    given = {name: value for name, value in vars(options).items() if name not in ("out", "plan")}
    with View(options.out, name="horizons", question=(__doc__ or "").splitlines()[0], params=given) as view:
        at_full = bench.do(long, heard=view.add)
        firsts = {seed: at_full[unit.name]["first_loss"] for seed, unit in enumerate(long, 1)}
        at_less = bench.do(
            [short_unit(plan, chosen, seed, firsts=firsts) for seed in range(1, 1 + options.seeds)], heard=view.add
        )
    values = {name: [at_full[unit.name][name] for unit in long] for name in ("T", *map(truncated_name, PARTS[:-1]))}
    for part in PARTS[:-1]:
        for name in (scaled_name(part), unscaled_name(part)):
            values[name] = [at_less[unit.name][name] for unit in short]
    report(options, bench, view, values, chosen)


def plan_for(options: Namespace) -> Plan:
    """Return the plan of the long runs."""
    space = load_space("fastface")
    if options.small:
        space = space.model_copy(update={"workload": load_space("smoke").workload})
    space = space.model_copy(update={"workload": of_size(space.workload, options.image_size)})
    return make_plan(space, steps=options.steps, data=absolute_data(options.data), cost_aware=False)


def drawn(plan: Plan, number: int) -> list[Assignment]:
    """Return the published setting and `number` - 1 random ones of the space."""
    suggester, past = Suggester(plan.space, sampler="random", seed=SETTINGS_SEED), list[Past]()
    chosen = [reference(plan, "fastface")]
    while len(chosen) < number:
        params = suggester.draw(len(past), past) or {}
        past.append(Past(len(past), params, 0.0, drawn=True))
        chosen.append(assignment(plan, params))
    return chosen


def long_unit(plan: Plan, chosen: Sequence[Assignment], seed: int) -> Unit:
    """Return the long runs of all settings under a seed."""
    return Unit(
        name=f"seed {seed} T",
        steps=len(chosen) * plan.steps,
        evaluations=round(len(chosen) * PARTS[0] * SHARED),
        share=SHARED,
        work=partial(do_long, plan=plan, chosen=tuple(chosen), seed=seed),
    )


def short_unit(plan: Plan, chosen: Sequence[Assignment], seed: int, *, firsts: Mapping[int, float]) -> Unit:
    """Return the short runs of all settings under a seed, written both ways; `firsts` are first losses by seed."""
    steps = [plan.steps // part for part in PARTS[:-1]]
    return Unit(
        name=f"seed {seed} short",
        steps=2 * len(chosen) * sum(steps),
        evaluations=2 * len(chosen) * len(steps),
        share=SHARED / 2,  # unscaled settings hardly ever decay, and are one run then
        work=partial(do_short, plan=plan, chosen=tuple(chosen), seed=seed, first_loss=firsts.get(seed, math.nan)),
    )


def do_long(worker: Worker, *, plan: Plan, chosen: Sequence[Assignment], seed: int) -> dict[str, Any]:
    """Return, by name of the time, the accuracies of all settings at T/16, T/4 and T of the long run."""
    found: dict[str, Any] = {name: [] for name in ("T", *map(truncated_name, PARTS[:-1]))}
    for number, setting in enumerate(chosen):
        config = once(run_config(plan, setting), times=PARTS[0]).model_copy(update={"seed": seed})
        trained = worker.train(config, label=f"T setting {number}", about={"setting": number, "way": "T"})
        seen = read_evaluations(trained.folder / EVALUATIONS_FILE)
        found["first_loss"] = trained.curve[0].loss
        for part in PARTS:
            name = "T" if part == 1 else truncated_name(part)
            found[name].append(seen.get(plan.steps // part, {}).get(METRIC_ACCURACY))
    return found


def do_short(
    worker: Worker, *, plan: Plan, chosen: Sequence[Assignment], seed: int, first_loss: float
) -> dict[str, Any]:
    """Return the accuracies of all settings on runs of T/16 and T/4, by length and way of writing the settings."""
    found: dict[str, Any] = {}
    for part in PARTS[:-1]:
        steps = plan.steps // part
        for name in (scaled_name(part), unscaled_name(part)):
            found[name] = []
            for number, setting in enumerate(chosen):
                if name == unscaled_name(part):
                    settings = unscaled(setting.settings, steps=plan.steps, first_loss=first_loss)
                    setting = Assignment(setting.scheduler, settings, setting.base_lr)
                config = once(run_config(plan, setting)).model_copy(update={"seed": seed, "total_steps": steps})
                about = {"setting": number, "way": name}
                trained = worker.train(config, label=f"{name} setting {number}", about=about)
                found[name].append(trained.metrics.get(METRIC_ACCURACY))
    return found


def unscaled(settings: Mapping[str, Setting], *, steps: int, first_loss: float) -> dict[str, Setting]:
    """Return settings with the detector's constants in steps, as they are for a run of `steps`."""
    fixed = rescale("fastface", settings, from_steps=steps, to_steps=steps, initial_loss=first_loss).resolved
    constants = {name: fixed[name] for name in IN_STEPS}
    return {**{k: v for k, v in settings.items() if k.removesuffix("_fraction") not in IN_STEPS}, **constants}


def scaled_name(part: int) -> str:
    """Return what scale-free runs of T / part are called."""
    return f"T/{part} scale-free"


def unscaled_name(part: int) -> str:
    """Return what unscaled runs of T / part are called."""
    return f"T/{part} unscaled"


def truncated_name(part: int) -> str:
    """Return what the long runs at T / part are called."""
    return f"T cut at T/{part}"


def report(
    options: Namespace, bench: Bench, view: View, values: Mapping[str, Any], chosen: Sequence[Assignment]
) -> None:
    """Print the table, draw the figure, keep the results."""
    found: dict[str, Judged] = {name: judged(rows, values["T"]) for name, rows in values.items()}
    sharing = bench.sharing()
    lines = [
        about(options),
        "",
        f"{Path(options.data).name}, T = {options.steps}, {len(chosen)} settings, {options.seeds} seeds",
    ]
    halving = halving_regret([values[truncated_name(part)] for part in PARTS[:-1]], values["T"])
    cut = f"Pruning (the better quarter goes on at T/16, and of those again at T/4) has a regret of {halving:.4f}."
    text = "\n".join([*lines, "", table(found, values["T"]), "", cut, sharing_line(sharing)]) + "\n"
    figure = draw(view.collect(METRIC_ACCURACY), found, path=options.out / "horizons.png")
    results = {
        "about": about(options),
        "settings": [dict(each.settings) for each in chosen],
        "values": values,
        "judged": {name: vars(each) for name, each in found.items()},
        "halving_regret": halving,
        "sharing": sharing,
    }
    (options.out / "horizons.json").write_text(json.dumps(results, indent=1))
    (options.out / "horizons.md").write_text(text)
    view.publish(options.out / "horizons.json", options.out / "horizons.md", figure)
    print(text)


if __name__ == "__main__":
    main()
