// What each part of the page shows, for the chosen group, measure and control.
(function () {
  "use strict";
  const report = window.report;
  const { data, el, byId, known } = report;
  const title = (measure) => data.measures[measure] || measure;
  const place = (id, ...nodes) => byId(id).replaceChildren(...nodes.flat().filter((n) => n));
  const missing = (text) => el("p", { class: "missing", text });
  const meanText = (over) => report.signed(over.mean) + (known(over.se) ? " \u00b1 " + report.number(over.se) : "");

  report.showCategories = function (group, measure) {
    const table = group.categories[measure];
    const tags = table ? Object.entries(table.tags) : [];
    if (!tags.length) {
      place("categories", missing("No sentence of these traces has this measure."));
      place("categories-readout");
      return place("categories-tables");
    }
    place("categories", report.dotRows(tags.map(([tag, one]) => ({
      key: tag, name: [report.swatch(tag), report.tagName(tag)], mean: one.over.mean, se: one.over.se,
      points: one.per_trace, figure: [meanText(one.over), el("small", { text: "; " + one.over.traces })],
    }))));
    const tested = table.pairs.filter((pair) => known(pair.p_t_holm));
    const clear = tested.filter((pair) => pair.p_t_holm < 0.05);
    const name = (pair) => {
      const [high, low] = pair.test.difference >= 0 ? [pair.first, pair.second] : [pair.second, pair.first];
      return `${report.tagShort(high)} above ${report.tagShort(low)} (p ${report.pValue(pair.p_t_holm)})`;
    };
    place("categories-readout", document.createTextNode(!tested.length
      ? "No two categories could be tested: a paired test needs two traces that have both."
      : `${tested.length} ${tested.length === 1 ? "pair" : "pairs"} tested within traces; after Holm's correction ` +
        (clear.length ? `${clear.length} ${clear.length === 1 ? "differs" : "differ"} at 5 %: ${clear.map(name).join("; ")}.` : "none differs at 5 %.")));
    place("categories-tables",
      report.tableFor("The means as a table", ["Category", "Mean", "SE", "95 % interval", "Traces", "Sentences", "Pooled mean", "Pooled SE"], () =>
        tags.map(([tag, one]) => [report.tagName(tag), report.signed(one.over.mean), report.number(one.over.se),
          report.range([one.over.low, one.over.high]) || "\u2013", one.over.traces, one.sentences, report.signed(one.pooled_mean), report.number(one.pooled_se)].map(String))),
      report.tableFor("Paired tests between categories", ["Pair", "Traces", "Difference", "t", "p, t test", "Holm", "p, signed rank", "Holm"], () =>
        table.pairs.map((pair) => [`${report.tagShort(pair.first)} \u2212 ${report.tagShort(pair.second)}`, pair.test.traces,
          report.signed(pair.test.difference), report.number(pair.test.t), report.pValue(pair.test.p_t), report.pValue(pair.p_t_holm),
          report.pValue(pair.test.p_wilcoxon), report.pValue(pair.p_wilcoxon_holm)].map(String))));
  };

  report.showAgreement = function (group, control) {
    const found = group.agreements.filter((one) => one.control === control);
    if (!found.length) {
      place("agreement", missing("These traces have no two measures that could be compared under this control."));
      return place("agreement-tables");
    }
    const names = Object.keys(data.measures).filter((m) => found.some((one) => one.first === m || one.second === m));
    const pair = (a, b) => found.find((one) => (one.first === a && one.second === b) || (one.first === b && one.second === a));
    place("agreement", report.heatTable(names.slice(1).map(title), names.slice(0, -1).map(title), (r, c) => {
      if (c > r) return null;
      const one = pair(names[r + 1], names[c]);
      return one ? { value: one.over.mean, unsure: one.p_shuffled > 0.05, note: known(one.over.se) ? "\u00b1 " + report.number(one.over.se) : "" } : { value: null };
    }));
    place("agreement-tables", report.tableFor("The correlations as a table",
      ["Pair", "Mean", "SE", "Traces", "p, t test", "Shuffled, 95 %", "p, shuffled"], () =>
        found.map((one) => [`${title(one.first)} and ${report.inText(title(one.second))}`, report.signed(one.over.mean), report.number(one.over.se),
          one.over.traces, report.pValue(one.p_t), report.number(one.null_high), report.pValue(one.p_shuffled)].map(String))));
  };

  const MATRIX = { resampling: "Resampling: change in how often the later sentence appears", suppression: "Attention suppression: normalised mean ln KL" };
  report.showMatrices = function (group) {
    const profiles = Object.entries(group.profiles);
    place("profiles", profiles.length ? profiles.map(([which, p]) => el("figure", { "data-profile": which },
      el("figcaption", {}, el("b", { text: MATRIX[which] }),
        `${p.traces} ${p.traces === 1 ? "trace" : "traces"}; distance explains ${report.percent(p.explained.mean)} of the variance; ` +
        `${report.percent(p.within_one.mean)} of its size lies at distance 1, ${report.percent(p.within_five.mean)} up to 5.`),
      report.lineChart({ x: p.distance, y: p.mean, se: p.se, label: `${MATRIX[which]}, by distance in sentences` }),
      el("figcaption", { text: "distance in sentences; band: one standard error over traces" })))
      : missing("These traces have no sentence-to-sentence matrix."));
    place("matrices", group.matrices.length ? el("table", {},
      el("thead", {}, el("tr", {}, ["Pairs of sentences", "Rank correlation", "SE", "Traces", "Shifted null, mean", "95 %", "p, shifted"].map((text) => el("th", { scope: "col", text })))),
      el("tbody", {}, group.matrices.map((one) => el("tr", {}, el("th", { scope: "row", text:
        (known(one.within) ? `within ${one.within} sentences` : "all") + (one.residual ? ", distance taken out" : "") }),
      [report.signed(one.over.mean), report.number(one.over.se), one.over.traces, report.signed(one.null_mean), report.signed(one.null_high), report.pValue(one.p_shifted)]
        .map((text) => el("td", { text: String(text) }))))))
      : missing("No trace has both matrices, so their agreement is not known."));
  };

  report.showExplained = function (group) {
    const found = Object.entries(group.explained);
    if (!found.length) return place("explained", missing("These traces are too short for it."));
    const columns = Object.keys(found[0][1].over);
    place("explained", report.heatTable(found.map(([m]) => title(m)), columns, (r, c) => {
      const over = found[r][1].over[columns[c]];
      return { value: over.mean, note: known(over.se) ? "\u00b1 " + report.number(over.se) : "" };
    }));
  };

  report.showAccuracy = function (traces) {
    place("accuracy", traces.map((t) => el("figure", {}, el("figcaption", { dir: "auto" }, el("b", { text: t.problem }),
      `${t.model}, ${t.kind}; ` + (t.kept < t.sentences ? `settled at sentence ${t.kept} of ${t.sentences}` : `${t.sentences} sentences, never settled`)),
    report.lineChart({ x: t.accuracy.map((_, i) => i), y: t.accuracy, low: 0, high: 1, height: 56,
      mark: t.kept < t.sentences ? t.kept : null, label: `Accuracy along ${t.name}` }))));
  };

  report.showShares = function (group) {
    const shares = Object.entries(group.shares);
    place("shares", el("div", { class: "stack", "aria-hidden": "true" }, shares.map(([tag, one]) => {
      const part = report.swatch(tag);
      part.setAttribute("class", "");
      part.style.flex = `${one.share} 1 0`;
      return part;
    })), el("div", { class: "legend" }, shares.map(([tag, one]) => el("span", {}, report.swatch(tag), `${report.tagName(tag)} ${report.percent(one.share)}`))));
    place("shares-table", report.tableFor("The shares as a table", ["Category", "Sentences", "Share", "Per trace"], () =>
      shares.map(([tag, one]) => [report.tagName(tag), report.number(one.sentences), report.percent(one.share), report.number(one.per_trace)])));
  };

  report.showAnchors = function (traces) {
    place("anchors", traces.map((t) => el("div", { class: "anchor-trace" }, el("h3", { text: t.name, dir: "auto" }),
      el("ol", {}, t.anchors.map((one) => el("li", { "data-sentence": one.index }, el("span", { class: "index", text: one.index }),
        el("div", {}, el("p", { class: "quote", dir: "auto", text: one.text }),
          el("p", { class: "anchor-facts" }, one.tags.flatMap((tag) => [report.swatch(tag), report.tagName(tag) + "; "]),
            `accuracy ${report.percent(one.accuracy)} before it, ${report.percent(one.accuracy_after)} after it`)),
        el("p", { class: "anchor-facts" }, one.largest_for.map((m) => el("span", { class: "largest", text: `${title(m)} ${report.signed(one.values[m])}` })))))))));
  };
})();
