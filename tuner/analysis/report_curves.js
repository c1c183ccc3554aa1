// The two figures of a report that are made from its block of curves: loss with LR, and a strip per trial.
// `page` holds the data, `state` what the reader chose, `narrow` says whether the page is, `heightOf` how tall a figure is.
function curveFigures(page, state, narrow, heightOf) {
  "use strict";
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
    function pair(numbers, role, width, parts) {
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
      if (groups.has(shade)) pair(groups.get(shade), shade, groups.get(shade).length > 40 ? 0.7 : 1, state.extremes ? ["low", "high"] : ["mean"]);
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
      pair([number], role, 2, ["mean"]);
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
        yaxis: { title: { text: "loss" }, domain: [0.33, 1], ...(state.logLoss ? logLoss() : { type: "linear" }) },
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

  // A single loss near 0 would leave no room for all others: the axis ends a little below the least mean.
  function logLoss() {
    const [least] = ends([...rows.values()].map((own) => own.mean));
    const [, most] = ends([...rows.values()].map((own) => own.high));
    const ticks = [];
    for (let power = Math.floor(Math.log10(least)) - 1; power <= Math.log10(most); power += 1) {
      ticks.push(...[1, 2, 5].map((digit) => Number(`${digit}e${power}`)));
    }
    return { type: "log", range: [Math.log10(least * 0.6), Math.log10(most * 1.1)], tickvals: ticks, ticktext: ticks.map(String) };
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
    const powers = [0, -1, -2, -3, -4].filter((each) => each >= floor);
    const lrs = ["1", "0.1", "0.01", "10⁻³", "10⁻⁴"].slice(0, powers.length);
    if (powers.length === 1) { powers.push(floor); lrs.push(String(Number((10 ** floor).toPrecision(2)))); }
    const changes = order.flatMap((number, place) => rows.get(number).changes.map((change) => [change, place, number]));
    const ticks = order.length <= 60 ? order.map((_, place) => place) : [];
    const height = Math.max(3, Math.min(14, 0.75 * (heightOf("decays") - 110) / order.length));
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
          tickvals: powers, ticktext: lrs, tickangle: 0, tickfont: { color: "@soft" },
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

  return { builders: { curves, decays: strips }, trials: block ? block.trials : [] };
}
