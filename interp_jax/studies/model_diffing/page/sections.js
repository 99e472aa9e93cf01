// The sections of the page, each from its part of the data.
(function () {
  "use strict";
  const report = window.report;
  const { data, el, place, known, number, percent, within } = report;

  report.showQuality = function () {
    const q = data.quality;
    const fine = (share) => known(share) ? `${(share * 100).toFixed(1)}\u2009%` : "\u2013";
    const facts = [["Variance of base explained", fine(q.fve_base)], ["Variance of chat explained", fine(q.fve_chat)], ["Of both together", fine(q.fve)],
      ["Latents per token (L0)", number(q.l0)], ["Latents", number(q.latents)], ["Latents that never fired", percent(q.dead_share)], ["Tokens seen", number(q.tokens)]];
    place("quality", facts.map(([name, value]) => el("div", {}, el("dt", { text: name }), el("dd", { text: value }))));
  };

  const classOf = (value) => value < 0.1 ? "base_only" : value > 0.9 ? "chat_only" : Math.abs(value - 0.5) < 0.1 ? "shared" : "other";
  report.showDelta = function (which) {
    const d = data.delta;
    const counts = d[which];
    const say = (k) => { report.byId("delta-readout").textContent = `Delta ${number(d.edges[k])} to ${number(d.edges[k + 1])}: ${number(counts[k])} latents`; };
    report.byId("delta-readout").textContent = "Point at a bar for its count. Heights grow with the square root of the count.";
    place("delta", report.histogram({ edges: d.edges, counts, classOf, say, ticks: [0, 0.1, 0.4, 0.5, 0.6, 0.9, 1], label: "Histogram of Delta; its counts are in the table below." }),
      el("div", { class: "key" }, Object.entries(report.CLASSES).map(([name, text]) => {
        const tone = { base_only: "var(--hurts)", shared: "var(--ink-3)", chat_only: "var(--helps)", other: "var(--rule)" }[name];
        const count = d.counts[which === "alive" ? `${name}_alive` : name];
        return el("span", { "data-class": name }, el("i", { style: { "--tone": tone } }), `${text} ${number(count)}`);
      })));
    place("delta-table", report.tableFor("The counts as a table", ["Delta", "All latents", "That fire"], () =>
      d.all.map((count, k) => [`${number(d.edges[k])} to ${number(d.edges[k + 1])}`, number(count), number(d.alive[k])])));
  };

  const VERDICTS = { chat_specific: "both low: the chat model's own", shrinkage: "only \u03bd\u03b5 high: shrinkage", decoupling: "only \u03bdr high: decoupling", both: "both high", unknown: "not known" };
  report.showScaling = function () {
    const s = data.scaling;
    const names = Object.keys(s.points);
    const made = report.scatter(s.points, s.bounds, (point) => {
      const { one, k } = point;
      const se = (value) => known(value) ? ` \u00b1 ${number(value)}` : "";
      report.byId("scatter-readout").textContent =
        `Latent ${point.latent} (${point.group}; by norms ${report.CLASSES[one.class[k]]}): \u03bd\u03b5 ${number(one.nu_eps[k])}${se(one.nu_eps_se[k])}, ` +
        `\u03bdr ${number(one.nu_r[k])}${se(one.nu_r_se[k])}, Delta ${number(one.delta[k])}`;
    });
    report.byId("scatter-readout").textContent = "Point at a latent, or use the arrow keys. Values beyond the axes stand at their ends.";
    place("scatter", made.figure, el("div", { class: "key" }, names.map((name, k) => el("span", {},
      el("i", { style: { "--tone": k ? "var(--hurts)" : "var(--helps)" } }),
      `${name}: ${number(s.points[name].of)}` + (s.points[name].of > s.points[name].latents.length ? `, ${number(s.points[name].latents.length)} drawn at random` : "")))));
    const share = (name, key) => {
      const table = s.tables[name].verdicts;
      const total = Object.values(table).reduce((a, b) => a + b, 0);
      return total ? `${number(table[key])} (${percent(table[key] / total)})` : "\u2013";
    };
    place("verdicts", report.plainTable(["\u03bd\u03b5 < " + s.bounds.nu_eps + ", \u03bdr < " + s.bounds.nu_r, ...names],
      Object.entries(VERDICTS).map(([key, text]) => [text, ...names.map((name) => share(name, key))])),
    el("p", { class: "aside", text: `Correlation with Delta over all latents that fire and lie within the range of the experiment: \u03bd\u03b5 ${number(s.correlation_with_delta.nu_eps)}, \u03bdr ${number(s.correlation_with_delta.nu_r)}. ` +
      `Of chat-only latents that fire, ${percent(s.like_shared.nu_eps)} (\u03bd\u03b5) and ${percent(s.like_shared.nu_r)} (\u03bdr) lie within the central 95\u2009% of shared latents.` }));
    const five = (q) => q ? q.map(number).join(", ") : "\u2013";
    place("scaling-table", report.tableFor("Quantiles beside control vectors", ["Set, vector", "\u03bd\u03b5 (5, 25, 50, 75, 95 %)", "\u03bdr", "\u03b2 error, base", "\u03b2 error, chat"], () =>
      names.flatMap((name) => Object.keys(s.tables[name].quantiles).map((which) => {
        const [q, b] = [s.tables[name].quantiles[which], s.tables[name].betas[which]];
        return [`${name}, ${which}`, five(q.nu_eps), five(q.nu_r), five(b.error_base), five(b.error_chat)];
      }))));
  };

  report.SETS = { all: "all of the answer", first_nine: "its first nine", after_first_nine: "all after these", template: "at template tokens" };
  report.showCausality = function (set) {
    const c = data.causality;
    const cells = c.cells.filter((cell) => cell.set === set);
    const kind = (name) => /random|other latents/.test(name) ? "control" : /^(none|full|template|base model)$/.test(name) ? "end" : "";
    place("causality", report.bars(cells.map((cell) => ({
      name: cell.condition, note: known(cell.latents) ? `${number(cell.latents)} latents` : "", found: cell.kl, kind: kind(cell.condition),
      told: known(cell.recovered.value) ? percent(cell.recovered.value).replace("-", "\u2212") : "",
    })), "nats"));
    const rows = c.ranking.filter((row) => row.set === set);
    place("ranking", rows.length ? report.plainTable(["Ranked by", "KL of the worst half \u2212 of the best half, nats"],
      rows.map((row) => [`${row.score === "Delta" ? "Delta" : "latent scaling"}${row.added ? ", chat rows added" : ""}`, within(row.difference, report.signed)])) : null);
    place("causality-table", report.tableFor("All numbers as a table",
      ["Condition", "Latents", "KL(chat || patched), nats", "Recovered", "Variance over tokens", "KL(base || patched)", "NLL", "NLL of chat's choice", "Tokens"], () =>
        cells.map((cell) => [cell.condition, number(cell.latents), within(cell.kl), within(cell.recovered, percent), number(cell.variance),
          number(cell.kl_from_base), number(cell.nll), number(cell.nll_of_top), number(cell.tokens)])));
  };

  report.showTemplate = function () {
    const t = data.template;
    if (!t) return place("template", report.missing("Examples were not collected, so this is not known."));
    place("template", report.plainTable(["Class by norms", "Latents that fire", "Fire there over half of the time", "over a third of the time", "Median share"],
      t.classes.map((row) => [report.CLASSES[row.class], number(row.latents), within(row.mainly, percent), within(row.a_third, percent), percent(row.median)])),
    el("p", { class: "aside", text: `${percent(t.of_data)} of ${number(t.tokens)} tokens are the template's. Intervals draw ${number(t.groups)} groups of conversations.` }));
    const edges = Array.from({ length: 21 }, (_, k) => k / 20);
    place("template-shares", t.classes.filter((row) => row.histogram).map((row) => el("figure", { "data-class": row.class },
      el("figcaption", { class: "aside", text: `${report.CLASSES[row.class]}: latents by their share of template tokens` }),
      report.histogram({ edges, counts: row.histogram, classOf: () => row.class, height: 70, ticks: [0, 0.25, 0.5, 0.75, 1],
        label: `Histogram for ${report.CLASSES[row.class]} latents; its counts are in the table below.`,
        say: (k) => { report.byId("template-readout").textContent = `${report.CLASSES[row.class]}, ${percent(edges[k])} to ${percent(edges[k + 1])} on template tokens: ${number(row.histogram[k])} latents`; } }))));
    report.byId("template-readout").textContent = "Point at a bar for its count. Heights grow with the square root of the count.";
    const shares = t.classes.filter((row) => row.histogram);
    place("template-counts", shares.length ? report.tableFor("The counts as a table", ["Share", ...shares.map((row) => report.CLASSES[row.class])], () =>
      edges.slice(0, -1).map((edge, k) => [`${percent(edge)} to ${percent(edges[k + 1])}`, ...shares.map((row) => number(row.histogram[k]))])) : null);
    const slots = t.classes.some((row) => row.slots && row.slots.length);
    place("template-table", slots ? report.tableFor("By token of the template", ["Class", ...t.classes.find((row) => row.slots).slots.map((_, k) => `token ${k + 1}`)], () =>
      t.classes.filter((row) => row.slots).map((row) => [report.CLASSES[row.class], ...row.slots.map(percent)])) : null);
  };

  report.showTwins = function () {
    const t = data.twins;
    if (!t) return place("twins", report.missing("Examples were not collected, so this is not known."));
    const compared = `${number(t.chat_only)} chat-only and ${number(t.base_only)} base-only latents that fire were compared.`;
    if (!t.pairs) return place("twins", el("p", { text: `There are none with a cosine above ${number(t.cosine)}. ${compared}` }));
    place("twins", report.plainTable(["Twins", "Pairs", "Share"], [
      [`cosine above ${number(t.cosine)}`, number(t.pairs), ""],
      ["one of the two is strong on held-out tokens", number(t.known), percent(t.known / t.pairs)],
      [`of these, divergence above ${number(t.bound)}`, number(t.diverging), t.known ? percent(t.diverging / t.known) : "\u2013"]]),
    el("p", { class: "aside", text: compared + (t.pairs > t.table.length ? ` The table has the ${number(t.table.length)} pairs of largest cosine.` : "") }));
    place("twins-table", report.tableFor("The pairs as a table", ["Chat-only latent", "Base-only latent", "Cosine", "Divergence", "Tokens with one or both strong", "with both"], () =>
      t.table.map((row) => [String(row.chat), String(row.base), row.cosine.toFixed(3), known(row.divergence) ? row.divergence.toFixed(2) : "\u2013", number(row.strong), number(row.both)])));
    const [silence, ...edges] = t.edges;
    const names = ["silent", ...edges.map((edge, k) => `${k ? percent(edges[k - 1]) : "up"} to ${percent(edge)}`), `${percent(edges[edges.length - 1])} or more`];
    place("twins-joint", report.tableFor("Tokens of all pairs by strength, in shares of each latent's maximum", ["Chat-only (rows), base-only (columns)", ...names], () =>
      t.joint.map((row, k) => [names[k], ...row.map(number)])), el("p", { class: "aside", text: `Silent: below ${number(silence)} of the maximum.` }));
  };

  const SIDES = { detection: ["active", "silent"], fuzzing: ["right marks", "wrong ones"] };
  report.showExplained = function () {
    const e = data.explained;
    if (!e) return place("explained", report.missing("No judge was asked; --judge names one."));
    const rows = e.latents.slice().sort((a, b) => b.delta - a.delta);
    const scorers = Object.keys(Object.values(e.groups)[0]);
    const told = (scorer, score) => [`${scorer} ${percent(score.accuracy)}`,
      el("small", { text: `${score.hits} of ${score.positives} ${SIDES[scorer][0]}, ${score.rejections} of ${score.negatives} ${SIDES[scorer][1]}` })];
    const asides = [`Judge ${e.judge.join(", ") || "\u2013"}, prompts ${e.versions.join(", ") || "\u2013"}.`,
      "Means over latents, with intervals over latents.",
      `${number(e.unanswered)} of ${number(e.asked)} answers could not be read; latents with too few examples: ${number(e.skipped)}.`];
    if (scorers.includes("detection")) asides.push(`Texts without the latent: ${e.similar ? "examples of the latents with the most similar decoder rows" : "drawn from all texts"}.`);
    if (scorers.includes("fuzzing")) asides.push(`Texts with too few silent tokens to mark, left out of fuzzing: ${number(e.left_out)}.`);
    place("explained", report.plainTable(["Latents", ...scorers.map((scorer) => `Balanced accuracy, ${scorer}`)],
      Object.entries(e.groups).map(([name, found]) => [name, ...scorers.map((scorer) => within(found[scorer], percent))])),
    el("p", { class: "aside", text: asides.join(" ") }),
    el("ul", { class: "explained" }, rows.map((row) => el("li", { "data-latent": row.latent },
      el("span", {}, `Latent ${row.latent}`, el("small", { text: `Delta ${number(row.delta)}` })),
      el("span", { class: "quote", dir: "auto", text: row.explanation || "\u2013" }),
      el("span", { class: "told" }, scorers.flatMap((scorer) => told(scorer, row.scores[scorer])))))));
  };

  report.showRun = function () {
    place("run", el("details", { class: "numbers" }, el("summary", { text: "Models, crosscoder, config and versions" }),
      el("pre", { text: JSON.stringify(data.facts, null, 1) })));
  };
})();
