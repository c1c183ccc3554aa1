"""A run's schedule as a piece of PyTorch code for a training loop of one's own."""

from textwrap import wrap
from typing import Final

from tuner.config.run import FaceConfig, OptimizerConfig, RunConfig

_COMMENT_WIDTH: Final = 100
_ADAPTERS = {"fastface": "FastFaceLR", "haar": "HaarLR"}
_PLAIN: Final = OptimizerConfig(weight_decay=0, clip_norm=None)
"""Stands where the workload has an optimizer of its own."""
_START = """\
import torch
{imports}

{about}
model = torch.nn.Linear(4, 2)  # yours
optimizer = torch.optim.SGD(model.parameters(), lr={lr}, momentum={momentum}, weight_decay={decay})
"""
_LOSS = "    loss = model(torch.randn(8, 4)).square().mean()  # yours\n"
_UPDATE = """\
    optimizer.zero_grad()
    loss.backward()
{clip}    optimizer.step()
"""


def comment(text: str) -> str:
    """Return a text as lines of comment, in Python as in YAML."""
    lines = wrap(" ".join(text.split()), _COMMENT_WIDTH, break_long_words=False, break_on_hyphens=False)
    return "\n".join(f"# {line}" for line in lines)


def torch_code(config: RunConfig, *, about: str) -> str:
    """Return code that runs as it stands; model and loss in it are to be replaced. `about` becomes a comment.

    A detector comes as its drop-in scheduler, `FastFaceLR` or `HaarLR`; other schedules are asked for each step's LR.
    """
    workload = config.workload
    optimizer = workload.optimizer if isinstance(workload, FaceConfig) else _PLAIN
    adapter = _ADAPTERS.get(config.scheduler.name)
    clip = optimizer.clip_norm
    start = _START.format(
        imports="from tuner import " + adapter if adapter else "from tuner.schedulers.registry import resolve",
        about=comment(about),
        lr=workload.reference_lr,
        momentum=optimizer.momentum,
        decay=optimizer.weight_decay,
    )
    norm = "" if clip is None else f"    torch.nn.utils.clip_grad_norm_(model.parameters(), {clip})\n"
    update = _UPDATE.format(clip=norm)
    if adapter:
        settings = {"total_steps": config.total_steps, **config.scheduler.settings}
        if config.loss_delay != 1:
            settings["loss_delay"] = config.loss_delay
        lines = "".join(f"    {name}={value!r},\n" for name, value in settings.items())
        loop = f"for step in range({config.total_steps}):\n{_LOSS}{update}    scheduler.step(loss)\n"
        return f"{start}scheduler = {adapter}(\n    optimizer,\n{lines})\n{loop}"
    lines = "".join(f"    {name!r}: {value!r},\n" for name, value in config.scheduler.settings.items())
    name, steps = config.scheduler.name, config.total_steps
    return (
        f'{start}settings = {{\n{lines}}}\nschedule = resolve("{name}", settings, total_steps={steps})\n'
        f"state, factor = schedule.start()\nfor step in range({steps}):\n"
        f'    for group in optimizer.param_groups:\n        group["lr"] = {workload.reference_lr} * factor\n'
        f"{_LOSS}{update}    state, factor = schedule.advance(state, loss.item())\n"
    )
