"""Confirmations made up from the values of each setting under each new seed."""

from tuner.analysis.confirmed import Confirmation, Contender, Cost, Role

PUBLISHED = (0.90, 0.91, 0.93, 0.92)


def confirmation(
    *rows: tuple[float | None, ...],
    searched: tuple[float | None, ...] = (0.90, 0.95, 0.94),
    baselines: int = 0,
    maximize: bool = True,
) -> Confirmation:
    """Return one of the published setting, of trials 1, 2, ... and in the end of baselines."""
    contenders = []
    for number in range(len(rows)):
        baseline = number >= len(rows) - baselines
        role: Role = "published" if number == 0 else "baseline" if baseline else "chosen"
        name = {"published": "published", "baseline": "cosine", "chosen": f"trial {number}"}[role]
        contenders.append(
            Contender(
                role=role,
                name=name,
                scheduler="cosine" if baseline else "fastface",
                settings={"patience": 10 + number},
                base_lr=0.1,
                trial=None if baseline else number,
                params={} if role != "chosen" else {"patience": number},
                same_as=(7, 9) if number == 1 else (),
                searched=None if baseline else searched[number],
            )
        )
    return Confirmation(
        sweep="first",
        metric="accuracy",
        maximize=maximize,
        steps=600,
        search_seed=0,
        seeds=tuple(range(1, 1 + len(rows[0]))),
        contenders=tuple(contenders),
        values=rows,
        cost=Cost(runs=12, steps=7200, executed=4000, repeated=10, shared=3210, seconds=250.0),
        failures=("trial 2 failed with seed 3: the loss must stay finite",),
    )


def shifted(by: float, *, noise: float = 0.001) -> tuple[float, ...]:
    return tuple(value + by + noise * sign for value, sign in zip(PUBLISHED, (1, -1, -1, 1), strict=True))
