// How the answers change along the trace: accuracy with its interval, and a strip of answers.
(function () {
  "use strict";
  const report = window.report;
  const { data, el, byId, known, hasRange } = report;
  const entries = report.parts.answers;
  const rows = [];
  const WRONG_SHOWN = 4;
  let order = [];

  const right = new Set(((data.problem && data.problem.correct_answers) || []).map(String));

  // Right answers first, then the commonest others; the rest are one group.
  function rank() {
    const totals = new Map();
    for (const entry of entries) {
      for (const [answer, times] of Object.entries(entry.answers)) totals.set(answer, (totals.get(answer) || 0) + times);
    }
    const sorted = [...totals].sort((a, b) => b[1] - a[1]).map(([answer]) => answer);
    const wrong = sorted.filter((answer) => !right.has(answer));
    order = sorted.filter((answer) => right.has(answer)).map((answer) => ({ answer, tone: "right" }));
    wrong.slice(0, WRONG_SHOWN).forEach((answer, k) => order.push({ answer, tone: "wrong-" + k }));
    if (wrong.length > WRONG_SHOWN) order.push({ answer: null, tone: "other", members: new Set(wrong.slice(WRONG_SHOWN)) });
  }

  // The parts of sentence i's strip: {name, tone, times}, unanswered rollouts last.
  report.answerParts = function (i) {
    const entry = entries[i];
    const parts = [];
    let answered = 0;
    for (const { answer, tone, members } of order) {
      let times = 0;
      for (const [given, count] of Object.entries(entry.answers)) {
        if (members ? members.has(given) : given === answer) times += count;
      }
      answered += times;
      if (times) parts.push({ name: members ? "other answers" : answer, tone, times });
    }
    if (entry.n > answered) parts.push({ name: "no answer", tone: "none", times: entry.n - answered });
    return parts;
  };

  report.answerStrip = function (i) {
    const total = Math.max(1, entries[i].n);
    return el("div", { class: "strip", role: "img", "aria-label": describe(i) },
      report.answerParts(i).map((part) => el("i", { class: part.tone, style: { width: (part.times / total) * 100 + "%" } })));
  };

  function describe(i) {
    const entry = entries[i];
    const parts = report.answerParts(i).map((part) => `${part.name} \u00d7\u2009${part.times}`);
    const range = report.range(entry.interval, report.percent);
    const accuracy = known(entry.accuracy) ? `accuracy ${report.percent(entry.accuracy)}${range ? ` (${range})` : ""}; ` : "";
    if (!entry.n) return `Before sentence ${i}: ${accuracy}the rollouts are not recorded.`;
    return `Before sentence ${i}: ${accuracy}${parts.join(", ") || "no rollouts"}; n = ${report.number(entry.n)}.`;
  }
  report.describeAnswers = describe;

  function buildLegend() {
    const legend = byId("answers-legend");
    for (const { answer, tone, members } of order) {
      legend.append(el("span", { class: "swatch" }, el("i", { class: tone, "aria-hidden": "true" }),
        el("span", { class: "answer-name", text: members ? `${members.size} other answers` : answer }), tone === "right" ? el("small", { text: " right" }) : null));
    }
    if (entries.some((_, i) => report.answerParts(i).some((part) => part.tone === "none"))) {
      legend.append(el("span", { class: "swatch" }, el("i", { class: "none", "aria-hidden": "true" }), "no answer"));
    }
  }

  function build() {
    const box = byId("answers");
    const graded = entries.some((entry) => known(entry.accuracy));
    box.classList.toggle("ungraded", !graded);
    box.append(el("div", { class: "answer-row heads" }, el("span", { class: "index" }),
      graded ? el("span", { class: "accuracy-head" }, el("b", { text: "accuracy" }), el("span", { class: "axis", "aria-hidden": "true" }, el("span", { text: "0" }), el("span", { text: "1" }))) : null,
      el("span", {}, el("b", { text: "answers" }))));
    entries.forEach((entry, i) => {
      const dot = el("div", { class: "accuracy" });
      if (hasRange(entry.interval)) {
        dot.append(el("i", { class: "range", style: { left: entry.interval[0] * 100 + "%", width: (entry.interval[1] - entry.interval[0]) * 100 + "%" } }));
      }
      if (known(entry.accuracy)) dot.append(el("i", { class: "dot", style: { left: entry.accuracy * 100 + "%" } }));
      const row = el("div", {
        class: "answer-row", "data-index": i,
        on: { click: () => report.select(i), mouseenter: () => report.hover(i), mouseleave: () => report.hover(null) },
      }, el("span", { class: "index", text: i }), graded ? dot : null, report.answerStrip(i));
      rows.push(row);
      box.append(row);
    });
  }

  function paint() {
    const now = report.focusSentence();
    rows.forEach((row, i) => {
      row.classList.toggle("selected", report.state.sentence === i);
      row.classList.toggle("hovered", now === i);
    });
    byId("answers-readout").textContent = now === null ? "Point at a row to read its answers." : describe(now);
  }

  report.startAnswers = function () {
    if (!entries) {
      byId("answers").append(el("p", { class: "missing" }, el("b", { text: "Not shown. " }), report.why(data.resampling)));
      byId("answers-readout").hidden = true;
      return;
    }
    rank();
    buildLegend();
    build();
    byId("answers-table").append(report.tableFor("All answers as a table", ["Sentence", "Accuracy", "95\u2009% interval", "n", "Answers"], () =>
      entries.map((entry, i) => [String(i), report.number(entry.accuracy), report.range(entry.interval) || "\u2013", report.number(entry.n),
        Object.entries(entry.answers).sort((a, b) => b[1] - a[1]).map(([answer, times]) => `${answer} \u00d7\u2009${times}`).join(", ")])));
    report.onHover(paint);
  };
})();
