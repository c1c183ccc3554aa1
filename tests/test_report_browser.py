"""The report in a real browser: it draws every figure and loads nothing, wide and narrow, light and dark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from browser import Heard, chromium, opened, running
from made_confirmation import PUBLISHED, confirmation, shifted
from made_sweep import make_sweep
from playwright.sync_api import Browser
from simulated_sweep import SEVERAL, simulate_sweep, write_curve

from tuner.analysis.confirmed_record import write_confirmation
from tuner.analysis.report_page import make_report
from tuner.sweep.report import report_material

PLACE_OF_A_POINT = """() => {
  const plot = document.getElementById("figure-curves");
  const trace = plot.data.findLast((each) => each.mode === "lines" && each.meta && each.yaxis !== "y2");
  const at = Math.floor(trace.x.length / 3);
  const box = plot.getBoundingClientRect();
  const { xaxis, yaxis } = plot._fullLayout;
  return [box.x + xaxis._offset + xaxis.d2p(trace.x[at]), box.y + yaxis._offset + yaxis.d2p(trace.y[at])];
}"""
"""Where a point of the best trial's loss is on the screen, before its first decay."""

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium is installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = simulate_sweep(tmp_path_factory.mktemp("browser") / "made", trials=16, failing=[5])
    write_confirmation(folder.path, confirmation(PUBLISHED, shifted(0.02), shifted(0.01), shifted(0.0), baselines=1))
    return written(folder.path / "report.html", make_report(report_material(folder)).page)


def written(path: Path, page: str) -> Path:
    path.write_text(page)
    return path


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Return what the page of a test does; at its end nothing may be amiss."""
    heard = Heard()
    yield heard
    assert heard.errors == []
    assert heard.messages == []
    assert [address for address in heard.requests if not address.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize(("width", "theme"), [(1180, "light"), (1180, "dark"), (390, "light"), (390, "dark")])
def test_every_figure_is_drawn_in_its_theme_and_fits(
    browser: Browser, report: Path, heard: Heard, width: int, theme: Literal["light", "dark"]
) -> None:
    with opened(browser, report, width=width, theme=theme, heard=heard) as page:
        plots = page.locator(".plot")
        assert plots.count() >= 14
        for place in range(plots.count()):
            drawn = plots.nth(place).locator(
                ".main-svg .trace, .main-svg .hm image, .main-svg .contour, .main-svg .scatter"
            )
            assert drawn.count() > 0, plots.nth(place).get_attribute("id")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        for box in (plots.nth(place).bounding_box() for place in range(plots.count())):
            assert box is not None
            assert box["x"] + box["width"] <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") == (theme == "light")


def test_pointing_at_a_loss_shows_the_lr_of_the_same_trial_and_step(
    browser: Browser, report: Path, heard: Heard
) -> None:
    with opened(browser, report, heard=heard) as page:
        page.evaluate("document.querySelector('#figure-curves').scrollIntoView({behavior: 'instant'})")
        x, y = page.evaluate(PLACE_OF_A_POINT)
        page.mouse.move(x + 30, y)
        page.mouse.move(x, y, steps=3)
        labels = page.locator("#figure-curves .hoverlayer .hovertext")
        labels.nth(1).wait_for()
        texts = sorted(labels.all_text_contents())
        assert len(texts) == 2
        assert texts[0].startswith("lr ")
        assert "trial" in texts[1]
        assert "loss" in texts[1]


def test_a_trial_can_be_pinned_the_table_sorted_and_the_theme_switched(
    browser: Browser, report: Path, heard: Heard
) -> None:
    with opened(browser, report, heard=heard) as page:
        page.locator("tr[data-trial='3']").click()
        assert "trial 3" in page.locator("#pinned").inner_text()
        assert page.locator("tr.pinned").count() == 1
        assert page.locator("table.sortable tbody tr").first.get_attribute("class") == "best"
        page.locator("table.sortable thead button", has_text="trial").first.click()
        numbers = [row.get_attribute("data-trial") for row in page.locator("table.sortable tbody tr").all()]
        assert numbers == [str(number) for number in range(16)]
        page.locator("#theme").click()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        page.locator("[data-toggle=extremes]").click()
        page.locator("[data-toggle=logLoss]").click()
        page.wait_for_timeout(300)


@pytest.mark.parametrize("trials", [0, 3])
def test_a_sweep_with_little_or_nothing_to_show(browser: Browser, tmp_path: Path, heard: Heard, trials: int) -> None:
    folder = simulate_sweep(tmp_path / "little", trials=trials, failing=range(trials) if trials == 3 else ())
    with opened(
        browser, written(tmp_path / "report.html", make_report(report_material(folder)).page), heard=heard
    ) as page:
        assert page.locator("h1").inner_text()


def test_several_schedulers(browser: Browser, tmp_path: Path, heard: Heard) -> None:
    folder = simulate_sweep(tmp_path / "several", trials=14, space=SEVERAL)
    path = written(tmp_path / "report.html", make_report(report_material(folder)).page)
    with opened(browser, path, width=390, heard=heard) as page:
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


CROWDED = """() => [...document.querySelectorAll(".plot")].flatMap((plot) => {
  const titles = [...plot.querySelectorAll(".ytitle")], labels = [...plot.querySelectorAll(".ytick text")];
  const [boxes, others] = [titles, labels].map((each) => each.map((one) => one.getBoundingClientRect()));
  const meet = (a, b) => a.right > b.left && b.right > a.left && a.bottom > b.top && b.bottom > a.top;
  return boxes.some((title) => others.some((label) => meet(title, label))) ? [plot.id] : [];
})"""
"""The figures in which a title of a vertical axis lies over the numbers beside it."""


@pytest.mark.parametrize("width", [1180, 390])
def test_numbers_of_few_trials_can_be_read(browser: Browser, tmp_path: Path, heard: Heard, width: int) -> None:
    values = {0: 0.6333, 1: 0.6583, 2: 0.6333}
    folder = make_sweep(tmp_path / "few", [*values.values()])
    for number in values:
        write_curve(folder.trial(number) / "curve.csv", np.linspace(8, 4, 100), np.repeat([0.2, 0.1], 50))
    path = written(tmp_path / "report.html", make_report(report_material(folder)).page)
    with opened(browser, path, width=width, heard=heard) as page:
        assert page.evaluate(CROWDED) == []
        ticks = page.locator("#figure-progress-trials .xtick text").all_text_contents()
        assert all(float(tick).is_integer() for tick in ticks)
        assert len(page.locator("#figure-decays .colorbar .cbaxis text").all_text_contents()) >= 2
