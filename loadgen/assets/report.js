"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = (v, unit) => {
    if (v === null || v === undefined) return "–";
    if (unit === "ms") {
      if (v >= 1000) return short(v / 1000) + " s";
      return v < 1 ? short(v * 1000) + " µs" : short(v) + " ms";
    }
    if (unit === "bytes") {
      const units = ["B", "KiB", "MiB", "GiB", "TiB"];
      let at = 0;
      while (v >= 1024 && at < 4) { v /= 1024; at += 1; }
      return short(v) + " " + units[at];
    }
    if (unit === "%") return short(v) + " %";
    if (unit === "/s") return short(v) + "/s";
    return short(v) + (unit ? " " + unit : "");
  };
  const short = (v) => v === 0 ? "0" : Math.abs(v) >= 100 ? Math.round(v).toLocaleString("en") : String(Number(v.toPrecision(3)));
  const clock = (s) => {
    if (s === null || s === undefined) return "–";
    const pad = (n) => String(n).padStart(2, "0");
    const whole = Math.floor(s);
    return whole < 3600 ? Math.floor(whole / 60) + ":" + pad(whole % 60)
      : Math.floor(whole / 3600) + ":" + pad(Math.floor(whole / 60) % 60) + ":" + pad(whole % 60);
  };
  const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];
  const sync = uPlot.sync("time");
  const plots = [];

  const axis = (unit, scale, side, last) => ({
    scale, side, stroke: () => css("--quiet"), size: 72, font: "11px system-ui, sans-serif",
    grid: { show: !last, stroke: () => css("--line"), width: 1 }, ticks: { stroke: () => css("--line"), width: 1 },
    values: (u, splits) => splits.map((v) => v === null ? "" : number(v, unit)),
  });
  const timeAxis = () => ({
    stroke: () => css("--quiet"), font: "11px system-ui, sans-serif", incrs: steps, values: (u, splits) => splits.map(clock),
    grid: { stroke: () => css("--line"), width: 1 }, ticks: { stroke: () => css("--line"), width: 1 },
  });
  const width = (box) => Math.max(240, Math.floor(box.getBoundingClientRect().width));
  const tall = () => window.innerWidth < 560 ? 190 : 230;

  // A logarithmic axis must have decades even where all values are alike.
  const decades = (u, low, high) => {
    if (!(low > 0) || !(high > 0)) return [0.1, 10];
    return [Math.pow(10, Math.floor(Math.log10(low))), Math.pow(10, Math.ceil(Math.log10(high * 1.0001)))];
  };
  const fromZero = (u, low, high) => [0, high > 0 ? high * 1.08 : 1];

  const lines = (box, chart) => {
    const second = chart.series.find((one) => one.unit && one.unit !== chart.unit);
    const scales = { x: { time: false }, y: { distr: chart.log ? 3 : 1, range: chart.log ? decades : fromZero } };
    const axes = [timeAxis(), axis(chart.unit, "y", 3, false)];
    if (second) {
      scales.z = { range: fromZero };
      axes.push(axis(second.unit, "z", 1, true));
    }
    const series = [{ label: "at", value: (u, v) => clock(v) }];
    for (const one of chart.series) {
      const unit = one.unit || chart.unit;
      series.push({
        label: one.name, scale: one.unit && one.unit !== chart.unit ? "z" : "y", stroke: () => css("--c" + one.colour),
        width: one.thin ? 1 : 1.8, dash: one.dash || undefined, points: { show: data.t.length < 3 }, spanGaps: !!chart.gaps,
        value: (u, v) => number(v, unit),
      });
    }
    const options = {
      width: width(box), height: tall(), scales, axes, series, cursor: { sync: { key: sync.key }, focus: { prox: 24 } },
      legend: { live: true },
    };
    plots.push([box, new uPlot(options, [data.t, ...chart.series.map((one) => one.v)], box)]);
  };

  // Cells of four for each doubling; the first ends at 16 µs.
  const end = (cell) => 0.016 * Math.pow(2, cell / 4);
  const heat = (box, chart) => {
    const cells = chart.columns.flat();
    const most = cells.reduce((top, [, n]) => Math.max(top, n), 1);
    const lowest = cells.reduce((low, [cell]) => Math.min(low, cell), 127);
    const highest = cells.reduce((high, [cell]) => Math.max(high, cell), 0);
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const paint = (u) => {
      const { ctx } = u;
      ctx.save();
      ctx.beginPath();
      ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
      ctx.clip();
      chart.columns.forEach((column, index) => {
        const from = Math.round(u.valToPos(index * chart.width, "x", true));
        const to = Math.round(u.valToPos((index + 1) * chart.width, "x", true));
        for (const [cell, n] of column) {
          const bottom = Math.round(u.valToPos(end(cell - 1), "y", true));
          const top = Math.round(u.valToPos(end(cell), "y", true));
          const heat = Math.log(1 + n) / Math.log(1 + most);
          // From pale to saturated blue; in the dark from dim to bright: lightness carries it for every eye.
          ctx.fillStyle = dark ? `hsl(${205 + 20 * (1 - heat)} 85% ${16 + 62 * heat}%)` : `hsl(${205 + 20 * heat} 85% ${90 - 66 * heat}%)`;
          ctx.fillRect(from, top, Math.max(1, to - from), Math.max(1, bottom - top));
        }
      });
      ctx.restore();
    };
    const told = (u, at) => {
      if (at === null || at === undefined) return "–";
      const column = chart.columns[Math.floor(data.t[at] / chart.width)] || [];
      return short(column.reduce((sum, [, n]) => sum + n, 0)) + " requests, the slowest within " +
        (column.length ? number(end(column[column.length - 1][0]), "ms") : "–");
    };
    const options = {
      width: width(box), height: tall(), scales: { x: { time: false }, y: { distr: 3, range: () => [end(lowest - 2), end(highest + 1)] } },
      axes: [timeAxis(), axis("ms", "y", 3, false)],
      series: [{ label: "at", value: (u, v) => clock(v) }, { label: "here", stroke: "transparent", points: { show: false }, value: (u, v, s, at) => told(u, at) }],
      cursor: { sync: { key: sync.key } }, legend: { live: true }, hooks: { drawAxes: [paint] },
    };
    plots.push([box, new uPlot(options, [data.t, data.t.map(() => end(lowest))], box)]);
  };

  const percentile = (x) => x === null ? "" : x <= 1 ? "0 %" : short6(100 - 100 / x) + " %";
  const short6 = (v) => String(Number(v.toPrecision(7)));
  const spectrum = (box, chart) => {
    const nines = [1, 2, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];
    const top = chart.x[chart.x.length - 1] || 10;
    const options = {
      width: width(box), height: tall() + 40,
      scales: { x: { time: false, distr: 3, range: () => [1, Math.pow(10, Math.ceil(Math.log10(Math.max(top, 10))))] }, y: { range: fromZero } },
      axes: [{ ...timeAxis(), incrs: undefined, splits: () => nines.filter((x) => x <= top * 10), filter: (u, splits) => splits, values: (u, splits) => splits.map(percentile) }, axis("ms", "y", 3, false)],
      series: [
        { label: "percentile", value: (u, v) => v === null ? "–" : percentile(v) },
        { label: "response", stroke: () => css("--c2"), width: 2.2, points: { show: false }, value: (u, v) => number(v, "ms") },
        { label: "service", stroke: () => css("--c1"), width: 2.2, dash: [6, 4], points: { show: false }, value: (u, v) => number(v, "ms") },
      ],
      legend: { live: true },
    };
    plots.push([box, new uPlot(options, [chart.x, chart.response, chart.service], box)]);
  };

  for (const chart of data.charts) {
    const box = document.getElementById(chart.id);
    if (!box) continue;
    if (chart.columns) heat(box, chart); else lines(box, chart);
    box.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10 }[event.key];
      if (!step) return;
      event.preventDefault();
      const plot = plots.find(([at]) => at === box)[1];
      const last = data.t.length - 1;
      const now = plot.cursor.idx === null || plot.cursor.idx === undefined ? (step > 0 ? -1 : last + 1) : plot.cursor.idx;
      const at = Math.min(last, Math.max(0, now + step));
      plot.setCursor({ left: plot.valToPos(data.t[at], "x"), top: plot.bbox.height / devicePixelRatio / 2 }, true, true);
    });
  }
  const box = document.getElementById("spectrum");
  if (box && data.spectrum.x.length) spectrum(box, data.spectrum);

  const fit = () => plots.forEach(([box, plot]) => plot.setSize({ width: width(box), height: plot.height }));
  let pending = 0;
  addEventListener("resize", () => { cancelAnimationFrame(pending); pending = requestAnimationFrame(fit); });
  addEventListener("beforeprint", fit);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach(([, plot]) => plot.redraw()));
})();
