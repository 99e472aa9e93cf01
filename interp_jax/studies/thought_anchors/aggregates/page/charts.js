// Figures of the aggregates: dots in rows, heat tables, lines with a band.
(function () {
  "use strict";
  const report = window.report;
  const { el, svg, known } = report;

  // The measure or category as people say it.
  report.tagName = (tag) => {
    const entry = report.data.tags[tag];
    const words = tag.replaceAll("_", " ");
    return entry && entry.short.length > 1 ? `${words} (${entry.short})` : words;
  };
  report.tagShort = (tag) => {
    const entry = report.data.tags[tag];
    return entry && entry.short.length > 1 ? entry.short : tag;
  };
  report.swatch = (tag) => el("i", {
    class: "swatch", "aria-hidden": "true",
    style: { background: (report.data.tags[tag] || { colour: "#9E9E9E" }).colour },
  });
  report.pValue = (p) => !known(p) ? "\u2013" : p < 0.001 ? "< .001" : report.number(p);

  // rows: [{name: nodes, mean, se, points, figure}]; one axis for all of them.
  report.dotRows = function (rows) {
    let low = 0;
    let high = 0;
    for (const row of rows) {
      const spread = row.se || 0;
      for (const x of [row.mean - spread, row.mean + spread, ...row.points].filter(known)) {
        low = Math.min(low, x);
        high = Math.max(high, x);
      }
    }
    if (low === high) high = low + 1;
    const at = (x) => ((x - low) / (high - low)) * 100 + "%";
    const heads = el("div", { class: "row heads" }, el("span"),
      el("span", { class: "axis" }, el("span", { text: report.number(low) }), el("span", { text: report.number(high) })),
      el("span", { class: "figure" }, el("small", { text: "mean \u00b1 SE; traces" })));
    return [heads].concat(rows.map((row) => {
      const plot = el("div", { class: "plot" }, el("i", { class: "zero", style: { left: at(0) } }));
      for (const x of row.points.filter(known)) plot.append(el("i", { class: "tick", style: { left: at(x) } }));
      if (known(row.se)) {
        plot.append(el("i", { class: "range", style: { left: at(row.mean - row.se), width: ((2 * row.se) / (high - low)) * 100 + "%" } }));
      }
      if (known(row.mean)) plot.append(el("i", { class: "dot", style: { left: at(row.mean) } }));
      return el("div", { class: "row", "data-row": row.key }, el("span", { class: "name" }, row.name), plot,
        el("span", { class: "figure" }, row.figure));
    }));
  };

  // cell(row, column) gives null or {value, note, unsure}.
  report.heatTable = function (names, columns, cell) {
    const write = (c) => {
      if (!c || !known(c.value)) return el("td", { text: c ? "\u2013" : "" });
      const side = c.value >= 0 ? "helps" : "hurts";
      return el("td", {
        class: c.unsure ? "unsure" : side, style: { "--size": Math.min(1, Math.abs(c.value)).toFixed(3) },
      }, report.signed(c.value), c.note ? el("small", { text: c.note }) : null);
    };
    return el("table", { class: "heat" },
      el("thead", {}, el("tr", {}, el("td"), columns.map((name) => el("th", { scope: "col", text: name })))),
      el("tbody", {}, names.map((name, r) => el("tr", {}, el("th", { scope: "row", text: name }),
        columns.map((_, c) => write(cell(r, c)))))));
  };

  // options: x, y (null leaves a gap), se, low, high, mark (an x), height, label.
  report.lineChart = function (options) {
    const { x, y } = options;
    const width = 300;
    const height = options.height || 90;
    const last = Math.max(...x, 1);
    const first = Math.min(...x, last - 1);
    const spread = (i) => (options.se && known(options.se[i]) ? options.se[i] : 0);
    const points = y.flatMap((value, i) => (known(value) ? [value - spread(i), value + spread(i)] : []));
    const low = known(options.low) ? options.low : Math.min(0, ...points);
    const high = known(options.high) ? options.high : Math.max(0, ...points);
    const px = (v) => (((v - first) / (last - first || 1)) * width).toFixed(2);
    const py = (v) => (height - ((v - low) / (high - low || 1)) * height).toFixed(2);
    const chart = svg("svg", {
      class: "lines", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": options.label,
    });
    chart.style.height = height + "px";
    for (const line of [0, low, high]) chart.append(svg("line", { class: "base", x1: 0, x2: width, y1: py(line), y2: py(line) }));
    const runs = [[]];
    y.forEach((value, i) => (known(value) ? runs[runs.length - 1].push(i) : runs.push([])));
    for (const run of runs.filter((r) => r.length)) {
      if (options.se && run.some((i) => spread(i))) {
        const up = run.map((i) => `${px(x[i])},${py(y[i] + spread(i))}`);
        const down = run.map((i) => `${px(x[i])},${py(y[i] - spread(i))}`).reverse();
        chart.append(svg("polygon", { class: "band", points: up.concat(down).join(" ") }));
      }
      chart.append(svg("polyline", { class: "mean", points: run.map((i) => `${px(x[i])},${py(y[i])}`).join(" ") }));
    }
    if (known(options.mark)) chart.append(svg("line", { class: "mark", x1: px(options.mark), x2: px(options.mark), y1: 0, y2: height }));
    return el("div", {}, chart, el("span", { class: "axis" },
      el("span", { text: report.number(first) }),
      el("span", { text: `height: ${report.number(low)} to ${report.number(high)}` }), el("span", { text: report.number(last) })));
  };
})();
