// Figures: a histogram whose bars can be pointed at, bars with intervals, a switch.
(function () {
  "use strict";
  const report = window.report;
  const { el, svg, known } = report;

  report.place = (id, ...nodes) => report.byId(id).replaceChildren(...nodes.flat().filter(Boolean));
  report.missing = (text) => el("p", { class: "missing", text });
  report.CLASSES = { base_only: "base only", shared: "shared", chat_only: "chat only", other: "other" };

  // "0.23 (0.19 to 0.31)"
  report.within = (found, write) => {
    const put = write || report.number;
    if (!found || !known(found.value)) return "\u2013";
    return known(found.low) ? `${put(found.value)} (${put(found.low)} to ${put(found.high)})` : put(found.value);
  };

  report.choices = function (id, name, options, current, choose) {
    const field = report.byId(id);
    for (const [value, text] of options) {
      const input = el("input", { type: "radio", name, value, id: `${name}-${value}`, on: { change: () => choose(value) } });
      input.checked = value === current;
      field.append(el("label", {}, input, el("span", { text })));
    }
  };

  // Heights grow with the root of the counts, or a handful of latents beside thousands is not seen.
  report.histogram = function ({ edges, counts, classOf, label, say, ticks, height = 190 }) {
    const [width, foot] = [760, 26];
    const top = Math.sqrt(Math.max(1, ...counts));
    const x = (value) => ((value - edges[0]) / (edges[edges.length - 1] - edges[0])) * width;
    const figure = svg("svg", { class: "figure", viewBox: `0 0 ${width} ${height + foot}`, role: "img", "aria-label": label });
    counts.forEach((count, k) => {
      const size = (Math.sqrt(count) / top) * (height - 12);
      const bar = svg("rect", {
        class: `bar ${classOf((edges[k] + edges[k + 1]) / 2)}`, x: x(edges[k]) + 0.75, y: height - size,
        width: Math.max(1, x(edges[k + 1]) - x(edges[k]) - 1.5), height: size,
        "data-count": count, "data-bin": k, on: { pointerenter: () => say(k) },
      });
      figure.append(bar);
    });
    figure.append(svg("line", { class: "rule", x1: 0, x2: width, y1: height, y2: height }));
    for (const at of ticks) {
      const anchor = at === 0 ? "start" : at === 1 ? "end" : "middle";
      figure.append(svg("text", { x: x(at), y: height + 16, "text-anchor": anchor }, String(at)));
    }
    return figure;
  };

  // rows: [{name, note, found, told, kind}]; all on one axis from 0.
  report.bars = function (rows, axis) {
    const high = Math.max(1e-12, ...rows.flatMap((row) => [row.found.value, row.found.high]).filter(known));
    const at = (x) => `${(Math.max(0, x) / high) * 100}%`;
    const heads = el("div", { class: "row heads" }, el("span"),
      el("span", { class: "axis" }, el("span", { text: "0" }), el("span", { text: `${report.number(high)} ${axis}` })),
      el("span", { class: "told" }, el("small", { text: "KL; share recovered" })));
    return [heads].concat(rows.map((row) => {
      const plot = el("div", { class: "plot", "aria-hidden": "true" }, el("i", { class: "length", style: { width: at(row.found.value) } }));
      if (known(row.found.low)) {
        plot.append(el("i", { class: "range", style: { left: at(row.found.low), width: `${((Math.max(0, row.found.high) - Math.max(0, row.found.low)) / high) * 100}%` } }));
      }
      return el("div", { class: `row ${row.kind || ""}`, "data-row": row.name },
        el("span", { class: "name" }, row.name, " ", el("small", { text: row.note || "" })), plot,
        el("span", { class: "told" }, report.number(row.found.value), " ", el("small", { text: row.told })));
    }));
  };

  report.plainTable = (heads, rows) => el("table", { class: "plain" },
    el("thead", {}, el("tr", {}, heads.map((text) => el("th", { scope: "col", text })))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, k) => el(k ? "td" : "th", { scope: k ? null : "row", text: cell }))))));
})();
