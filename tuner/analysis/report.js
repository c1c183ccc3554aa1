// Draws the figures of a report. Data are the page's own; nothing is loaded, and all text goes in as text.
(() => {
  "use strict";
  const page = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const plots = [...document.querySelectorAll(".plot")];
  const state = { pinned: null, extremes: false, logLoss: false };
  const narrow = () => window.innerWidth < 600;

  // --- colours: figures name them by role, the style sheet has them for both themes
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  let colors = new Map();

  function color(role) {
    if (!colors.has(role)) {
      probe.style.color = `var(--${role})`;
      colors.set(role, getComputedStyle(probe).color);
    }
    return colors.get(role);
  }

  function scale(role) {
    return [0, 1, 2, 3, 4].map((place) => [place / 4, color(`${role}-${place}`)]);
  }

  function themed(value) {
    if (typeof value === "string" && value.startsWith("@")) {
      return value.startsWith("@scale-") ? scale(value.slice(7)) : color(value.slice(1));
    }
    if (Array.isArray(value)) return value.length && typeof value[0] === "number" ? value : value.map(themed);
    if (value !== null && typeof value === "object" && !ArrayBuffer.isView(value)) {
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, themed(each)]));
    }
    return value;
  }

  // --- what all figures have in common; margins are fixed, since fitting them to labels draws everything twice
  const axis = {
    gridcolor: "@grid", linecolor: "@rule", zeroline: false, tickcolor: "@rule", ticks: "outside", ticklen: 4,
    automargin: false, title: { standoff: 8, font: { size: 13, color: "@soft" } }, tickfont: { color: "@soft" },
    exponentformat: "power", minexponent: 4, nticks: 7,
  };

  function merged(base, over) {
    const out = { ...base };
    for (const [key, value] of Object.entries(over)) {
      const deep = value !== null && typeof value === "object" && !Array.isArray(value) && typeof base[key] === "object";
      out[key] = deep ? merged(base[key], value) : value;
    }
    return out;
  }

  function completed(layout) {
    const font = getComputedStyle(document.body).fontFamily;
    const out = merged({
      font: { family: font, size: 12, color: "@ink" }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 68, r: 12, t: 14, b: 46, pad: 2 }, hovermode: "closest", hoverdistance: 30,
      hoverlabel: { bgcolor: "@raised", bordercolor: "@muted", font: { color: "@ink", size: 12, family: font }, align: "left" },
      dragmode: narrow() ? false : "zoom", showlegend: false, separators: ".,", xaxis: {}, yaxis: {},
    }, layout);
    for (const key of Object.keys(out)) {
      if (/^[xy]axis\d*$/.test(key)) {
        const all = merged(axis, narrow() ? { nticks: 5 } : {});
        const one = out[key];
        out[key] = merged(all, typeof one.title === "string" ? { ...one, title: { text: one.title } } : one);
      }
    }
    return out;
  }

  // Points know their trial: its label shows on hover, and where it is pinned it is drawn once more, on top.
  function withLabels(trace) {
    if (!trace.trials) return trace;
    const { trials, ...rest } = trace;
    const text = trials.map((number) => (number === null ? "" : page.labels[number]));
    return { ...rest, text, meta: { trials } };
  }

  function pinnedOver(traces) {
    if (state.pinned === null) return [];
    return traces.flatMap((trace) => {
      const keep = (trace.trials || []).map((number) => number === state.pinned);
      if (!keep.some(Boolean)) return [];
      const only = (values) => values.filter((_, place) => keep[place]);
      return [{
        ...trace, x: only(trace.x), y: only(trace.y), trials: only(trace.trials),
        line: { ...trace.line, color: "@pinned", width: Math.max(3, (trace.line || {}).width || 0) },
        marker: { ...trace.marker, color: "@pinned", size: Math.max(6, (trace.marker || {}).size + 3 || 0) },
      }];
    });
  }

  const heightOf = (id) => plots.find((plot) => plot.dataset.figure === id).clientHeight;
  const { builders, trials: order } = curveFigures(page, state, narrow, heightOf);

  // --- drawing
  function spec(id) {
    const figure = page.figures[id];
    const built = figure.built ? builders[figure.built]() : figure;
    const over = figure.built === "curves" ? [] : pinnedOver(built.data);
    return {
      data: [...built.data, ...over].map((trace) => withLabels(trace)).map(({ meta, text, ...trace }) => ({ ...themed(trace), meta, text })),
      layout: themed(completed(built.layout)),
    };
  }

  async function draw(plot) {
    const { data, layout } = spec(plot.dataset.figure);
    const first = !plot.dataset.drawn;
    await Plotly.react(plot, data, layout, { displayModeBar: false, responsive: true, doubleClick: "reset" });
    if (first) {
      plot.dataset.drawn = "yes";
      plot.on("plotly_click", (event) => pin(trialOf(event.points[0])));
      if (plot.dataset.figure === "curves") plot.on("plotly_hover", (event) => link(plot, event));
    }
  }

  function trialOf(point) {
    if (point.data.type === "heatmap") return point.data.ygap === undefined ? null : order[Math.round(point.y)];
    const { meta } = point.data;
    return meta ? meta.trials[point.pointNumber] : null;
  }

  // Pointing at a loss shows the learning rate of that trial at that step as well, and the other way round.
  let linking = false;
  function link(plot, event) {
    const [point] = event.points;
    if (linking || event.points.length > 1 || !point.data.meta || point.data.mode !== "lines") return;
    const partner = point.data.yaxis === "y2" ? point.curveNumber - 1 : point.curveNumber + 1;
    linking = true;
    try {
      const pair = [point.curveNumber, partner].sort((a, b) => a - b);
      Plotly.Fx.hover(plot, pair.map((curveNumber) => ({ curveNumber, pointNumber: point.pointNumber })), ["xy", "xy2"]);
    } finally {
      linking = false;
    }
  }

  let turn = 0;
  async function drawAll(chosen = plots) {
    const mine = ++turn;
    for (const plot of chosen) {
      if (mine !== turn) return;
      await draw(plot);
      drawn("first");
      await new Promise((next) => setTimeout(next));
    }
    drawn("all");
  }

  // For those who wait for the page: an attribute that says what is drawn, and a mark of when it was for the first time.
  function drawn(what) {
    if (root.dataset.drawn === "all" || root.dataset.drawn === what) return;
    root.dataset.drawn = what;
    performance.mark(what);
  }

  function pin(number) {
    if (number === null || number === undefined) return;
    state.pinned = state.pinned === number ? null : number;
    document.querySelectorAll("tr[data-trial]").forEach((row) => row.classList.toggle("pinned", Number(row.dataset.trial) === state.pinned));
    const told = document.getElementById("pinned");
    if (told) told.textContent = state.pinned === null ? "" : `pinned: ${page.labels[number].replace("<br>", " · ").replaceAll("<br>", " ")}`;
    drawAll();
  }

  // --- the page's buttons
  const theme = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  function themeChanged() {
    theme.textContent = dark() ? "Light" : "Dark";
    colors = new Map();
    drawAll();
  }
  theme.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    themeChanged();
  });
  system.addEventListener("change", themeChanged);

  document.querySelectorAll("[data-toggle]").forEach((button) => button.addEventListener("click", () => {
    const name = button.dataset.toggle;
    state[name] = !state[name];
    button.setAttribute("aria-pressed", String(state[name]));
    draw(plots.find((plot) => plot.dataset.figure === "curves"));
  }));

  document.querySelectorAll(".copy").forEach((button) => button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source); // no clipboard for this page: the text is selected instead
      button.textContent = document.execCommand("copy") ? "Copied" : "Press Ctrl-C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }));

  document.querySelectorAll("tr[data-trial]").forEach((row) => row.addEventListener("click", () => pin(Number(row.dataset.trial))));

  document.querySelectorAll("table.sortable thead button").forEach((button, column) => button.addEventListener("click", () => {
    const heading = button.parentElement;
    const body = heading.closest("table").tBodies[0];
    const rising = heading.getAttribute("aria-sort") !== "ascending";
    heading.parentElement.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
    heading.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.key;
    const order = (one, other) => {
      const numbers = [Number(one), Number(other)];
      return numbers.some(Number.isNaN) ? one.localeCompare(other) : numbers[0] - numbers[1];
    };
    const sorted = [...body.rows].sort((one, other) => {
      if (key(one) === undefined || key(other) === undefined) return (key(one) === undefined) - (key(other) === undefined);
      return (rising ? 1 : -1) * order(key(one), key(other));
    });
    body.append(...sorted);
  }));

  themeChanged();
})();
