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
      margin: { l: 58, r: 12, t: 14, b: 46, pad: 2 }, hovermode: "closest", hoverdistance: 30,
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

  // --- curves: one block of floats for all figures that need them
  const block = page.curves;
  const rows = new Map();
  let middles = [];

  function floats(text) {
    const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
    return new Float32Array(bytes.buffer);
  }

  function levels(lr, count) {
    if (lr.buckets) return floats(lr.buckets);
    const out = new Float32Array(count).fill(NaN);
    let next = 0;
    let level = NaN;
    for (let place = 0; place < count; place += 1) {
      while (next < lr.changes.length && lr.changes[next][0] <= middles[place]) level = lr.changes[next++][1];
      out[place] = level;
    }
    return out;
  }

  if (block) {
    const count = block.edges.length - 1;
    middles = Float64Array.from({ length: count }, (_, place) => Math.floor((block.edges[place] + block.edges[place + 1] - 1) / 2));
    const [low, mean, high] = [block.low, block.mean, block.high].map(floats);
    block.trials.forEach((number, place) => {
      const part = (all) => all.subarray(place * count, (place + 1) * count);
      const own = { low: part(low), mean: part(mean), high: part(high), lr: levels(block.lr[place], count) };
      own.last = own.mean.findLastIndex((each) => !Number.isNaN(each));
      own.lr.fill(NaN, own.last + 1);
      own.changes = (block.lr[place].changes || []).slice(1).map(([step, after], at) => ({
        step, before: block.lr[place].changes[at][1], after, bucket: block.edges.findLastIndex((edge) => edge <= step),
      }));
      rows.set(number, own);
    });
  }

  // Many curves as one trace, with gaps: two hundred traces of their own would take seconds to draw.
  function joined(numbers, parts) {
    const size = (middles.length * parts.length) + 1;
    const x = new Float64Array(numbers.length * size).fill(NaN);
    const y = new Float64Array(numbers.length * size).fill(NaN);
    const trials = new Array(numbers.length * size).fill(null);
    numbers.forEach((number, at) => {
      const own = rows.get(number);
      for (let place = 0; place <= own.last; place += 1) {
        parts.forEach((part, which) => {
          const to = at * size + place * parts.length + which;
          x[to] = middles[place];
          y[to] = own[part][place];
          trials[to] = number;
        });
      }
    });
    return { x, y, trials };
  }

  function curves() {
    const parts = state.extremes ? ["low", "high"] : ["mean"];
    const heroes = [[page.reference, "reference"], [page.best, "best"], [state.pinned, "pinned"]]
      .filter(([number]) => number !== null && rows.has(number));
    const apart = new Set(heroes.map(([number]) => number));
    const groups = new Map();
    for (const number of block.trials) {
      if (apart.has(number)) continue;
      const shade = number in page.shades ? `shade-${page.shades[number]}` : "failed";
      groups.set(shade, [...(groups.get(shade) || []), number]);
    }
    const traces = [];
    // Loss and LR of a trial are neighbours in the list, so that pointing at one finds the other.
    function pair(numbers, role, width) {
      traces.push({
        ...joined(numbers, parts), type: "scatter", mode: "lines",
        line: { color: `@${role}`, width, dash: role === "failed" ? "dot" : "solid" }, hovertemplate: "%{text}<br>step %{x:,} · loss %{y:.4g}<extra></extra>",
      });
      traces.push({
        ...joined(numbers, parts.map(() => "lr")), type: "scatter", mode: "lines", yaxis: "y2",
        line: { color: `@${role}`, width: width + 0.2, shape: "hv", dash: role === "failed" ? "dot" : "solid" }, hovertemplate: "lr %{y:.3g}<extra></extra>",
      });
    }
    for (const shade of ["failed", "shade-0", "shade-1", "shade-2", "shade-3", "shade-4"]) {
      if (groups.has(shade)) pair(groups.get(shade), shade, groups.get(shade).length > 40 ? 0.7 : 1);
    }
    const quiet = [...groups.values()].flat();
    traces.push({ ...decays(quiet), marker: { symbol: "triangle-down", size: 5, color: "@muted", opacity: 0.8 } });
    for (const [number, role] of heroes) {
      const own = rows.get(number);
      const to = own.last + 1;
      const across = [...middles.slice(0, to)];
      traces.push({
        type: "scatter", mode: "lines", x: [...across, ...across.slice().reverse()], y: [...own.high.slice(0, to), ...[...own.low.slice(0, to)].reverse()],
        fill: "toself", fillcolor: `@${role}-band`, line: { width: 0 }, hoverinfo: "skip",
      });
    }
    for (const [number, role] of heroes) {
      pair([number], role, 2);
      traces.push({
        ...decays([number]),
        marker: { symbol: "triangle-down", size: 10, color: `@${role}`, line: { width: 1, color: "@paper" } },
      });
    }
    const [least, most] = ends([...rows.values()].map((own) => own.lr));
    const spread = most / least;
    const spike = { showspikes: true, spikemode: "across", spikesnap: "data", spikethickness: 1, spikedash: "dot", spikecolor: "@muted" };
    return {
      data: traces,
      layout: {
        xaxis: { title: { text: "training step" }, tickformat: "~s", anchor: "y2", range: [0, block.edges[block.edges.length - 1]], ...spike },
        yaxis: { title: { text: "loss" }, domain: [0.33, 1], type: state.logLoss ? "log" : "linear" },
        yaxis2: { title: { text: "learning rate" }, domain: [0, 0.26], ...(spread > 10 ? { type: "log", ...decades(least, most) } : { type: "linear", nticks: 4 }) },
        margin: { l: 66 }, uirevision: "curves",
      },
    };
  }

  function ends(arrays) {
    let [least, most] = [Infinity, 0];
    for (const values of arrays) {
      for (const value of values) {
        if (value > 0 && value < least) least = value;
        if (value > most) most = value;
      }
    }
    return [least, most];
  }

  // Powers of ten in words of few letters, five at most.
  function decades(least, most) {
    const [low, high] = [Math.floor(Math.log10(least)), Math.ceil(Math.log10(most))];
    const every = Math.ceil((high - low + 1) / 5);
    const powers = Array.from({ length: high - low + 1 }, (_, place) => low + place).filter((power) => (power - high) % every === 0);
    const raised = (power) => `10${[...String(power)].map((each) => (each === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[each])).join("")}`;
    return { tickvals: powers.map((power) => 10 ** power), ticktext: powers.map((power) => (power < -3 ? raised(power) : String(Number(`1e${power}`)))) };
  }

  function decays(numbers) {
    const points = numbers.flatMap((number) => rows.get(number).changes
      .filter((change) => change.after < change.before).map((change) => [change.step, rows.get(number).mean[change.bucket], number]));
    return {
      type: "scatter", mode: "markers", x: points.map((each) => each[0]), y: points.map((each) => each[1]), trials: points.map((each) => each[2]),
      hovertemplate: "%{text}<br>the LR decays at step %{x:,}<extra></extra>",
    };
  }

  // --- a strip per trial: its LR over time
  function strips() {
    const order = block.trials;
    const [lowest, top] = ends(order.map((number) => rows.get(number).lr));
    const z = order.map((number) => Float32Array.from(rows.get(number).lr, (lr) => (lr > 0 ? Math.log10(lr / top) : NaN)));
    const floor = Math.max(-4, Math.min(-0.3, Math.log10(lowest / top))); // below that an LR is as good as none
    const changes = order.flatMap((number, place) => rows.get(number).changes.map((change) => [change, place, number]));
    const ticks = order.length <= 60 ? order.map((_, place) => place) : [];
    const height = Math.max(3, Math.min(14, 0.75 * (plots.find((each) => each.dataset.figure === "decays").clientHeight - 110) / order.length));
    const mark = (chosen, symbol, what) => ({
      type: "scatter", mode: "markers", x: chosen.map(([change]) => change.step), y: chosen.map(([, place]) => place), trials: chosen.map(([, , number]) => number),
      marker: { symbol, size: height, color: "@ink", line: { width: 1.4, color: "@ink" } }, hovertemplate: `%{text}<br>the LR ${what} at step %{x:,}<extra></extra>`,
    });
    return {
      data: [{
        type: "heatmap", x: block.edges, y: order.map((_, place) => place), z, zmin: floor, zmax: 0, colorscale: "@scale-lr", ygap: order.length <= 60 ? 2 : 0,
        hovertemplate: "%{text}<br>step %{x:,}<extra></extra>", text: order.map((number) => new Array(middles.length).fill(page.labels[number])),
        colorbar: {
          title: { text: "LR, of the highest", side: "top", font: { size: 12, color: "@soft" } }, orientation: "h", thickness: 9, len: narrow() ? 0.7 : 0.42, x: 1, xanchor: "right", y: 1.01, yanchor: "bottom", outlinewidth: 0, ypad: 4,
          tickvals: [0, -1, -2, -3, -4].filter((each) => each >= floor), ticktext: ["1", "0.1", "0.01", "10⁻³", "10⁻⁴"], tickangle: 0, tickfont: { color: "@soft" },
        },
      },
      mark(changes.filter(([change]) => change.after < change.before), "line-ns-open", "decays"),
      mark(changes.filter(([change]) => change.after > change.before), "triangle-up-open", "rises")],
      layout: {
        xaxis: { title: { text: "training step" }, tickformat: "~s", showgrid: false, range: [0, block.edges[middles.length]] },
        yaxis: {
          title: { text: ticks.length ? "trial" : "trials, best on top" }, range: [order.length - 0.5, -0.5], tickvals: ticks, ticktext: order.map((number) => page.marks[number]), showgrid: false,
        },
        margin: { t: 52 },
      },
    };
  }

  const builders = { curves, decays: strips };

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
    if (point.data.type === "heatmap") return point.data.ygap === undefined ? null : block.trials[Math.round(point.y)];
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
    if (told) told.textContent = state.pinned === null ? "" : `pinned: ${page.labels[number].replaceAll("<br>", " · ")}`;
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
