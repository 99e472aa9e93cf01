// Heads ablated: accuracy with receiver, random and no heads, and what it does to the trace.
(function () {
  "use strict";
  const report = window.report;
  const { data, el, byId, known } = report;
  const NAMES = { none: "All heads", receiver: "Without receiver heads", random: "Without random heads" };
  const MEASURES = [["kl", "KL from the whole model"], ["log_probability", "Log-probability lost"]];

  function accuracy(answers) {
    if (answers.not_shown) return el("p", { class: "missing" }, el("b", { text: "Accuracy: not shown. " }), answers.not_shown);
    const rows = answers.conditions.map((one) => el("li", { "data-condition": one.name },
      el("span", { text: NAMES[one.name] || one.name }),
      el("span", { class: "bar" },
        el("i", { class: "fill helps", style: { left: "0", width: one.value * 100 + "%" } }),
        el("i", { class: "range", style: { left: one.interval[0] * 100 + "%", width: (one.interval[1] - one.interval[0]) * 100 + "%" } })),
      el("span", { class: "figure", text: `${report.percent(one.value)} (${report.range(one.interval, report.percent)})` })));
    const lower = (name) => report.inText(NAMES[name] || name);
    return [el("div", {}, el("h3", { text: "Right answers" }), el("ol", {}, rows)),
      report.tableFor("Differences of accuracy, and answers that cannot be read", ["", "Value", "95\u2009% interval"], () => [
        ...answers.changes.map((one) => [`${NAMES[one.name]} minus ${lower(one.against)}`, report.signed(one.value), report.range(one.interval, report.signed)]),
        ...answers.conditions.map((one) => [`No readable answer ${lower(one.name)}`, report.percent(one.unanswered), ""])]),
      el("p", { class: "aside", text: `${report.number(answers.problems)} problems, ${report.number(answers.samples)} answers to each in every row; an answer that does not end or cannot be read is not right. Intervals are 95\u2009% and hold for these problems.` })];
  }

  // One dot for each random set, a larger one for the receiver heads.
  function onTrace(part) {
    const values = MEASURES.flatMap(([key]) => [part[key].value, ...part[key].controls]);
    const low = Math.min(0, ...values);
    const high = Math.max(low + 1e-12, ...values);
    const at = (value) => ((value - low) / (high - low)) * 100 + "%";
    const dot = (value, kind) => el("i", { class: kind, style: { left: at(value) }, title: report.number(value) });
    return el("div", {}, el("h3", {}, "On this trace ", el("small", { text: "nats a token; small dots are random heads" })),
      el("ol", {}, MEASURES.map(([key, name]) => el("li", { "data-measure": key }, el("span", { text: name }),
        el("span", { class: "bar" }, low < 0 ? el("i", { class: "zero", style: { left: at(0) } }) : null,
          part[key].controls.map((value) => dot(value, "dot")), dot(part[key].value, "dot chosen")),
        el("span", { class: "figure", text: `${report.number(part[key].value)}, p ${part[key].p_value.toFixed(2)}` })))),
      report.tableFor("All sets of heads as a table", ["Heads", ...MEASURES.map(([, name]) => name)], () => [
        ["receiver", ...MEASURES.map(([key]) => report.number(part[key].value))],
        ...part.kl.controls.map((_, k) => ["random " + (k + 1), ...MEASURES.map(([key]) => report.number(part[key].controls[k]))])]));
  }

  report.startAblation = function () {
    const part = data.ablation;
    byId("ablation-section").hidden = !known(part);
    if (!known(part)) return;
    if (part.not_shown) {
      byId("ablation").append(el("p", { class: "missing" }, el("b", { text: "Not shown. " }), part.not_shown));
      return;
    }
    const heads = part.heads.map((head) => `${head.layer}.${head.head}`).join(", ");
    byId("ablation").append(el("div", { class: "ablation" },
      el("p", { class: "aside", text: `${part.heads.length} heads, as layer.head: ${heads}.` +
        (part.overlapping.length ? ` In layers ${part.overlapping.join(", ")} more than half of the heads are ablated, so the random ones include some of them.` : "") }),
      accuracy(part.answers), onTrace(part)));
  };
})();
