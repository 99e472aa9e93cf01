// Receiver heads, notes and the facts of the run.
(function () {
  "use strict";
  const report = window.report;
  const { data, el, svg, byId, known } = report;

  function buildReceiver() {
    const box = byId("receiver");
    const receiver = report.parts.receiver;
    if (!receiver) {
      box.append(el("p", { class: "missing" }, el("b", { text: "Not shown. " }), report.why(data.receiver)));
      return;
    }
    const heads = receiver.heads.slice().sort((a, b) => b.kurtosis - a.kurtosis);
    const top = Math.max(1e-12, ...heads.map((head) => head.kurtosis || 0));
    box.append(el("div", { class: "receiver-layout" },
      el("ol", { class: "heads-list" }, heads.slice(0, 12).map((head) => el("li", {},
        el("span", { text: `layer ${head.layer}, head ${head.head}` }),
        el("span", { class: "bar" }, el("i", { class: "fill moves", style: { left: "0", width: (Math.max(0, head.kurtosis) / top) * 100 + "%" } })),
        el("span", { class: "figure", text: known(head.kurtosis) ? head.kurtosis.toFixed(2) : "\u2013" })))),
      receiver.heatmap ? heatmap(receiver.heatmap, new Set(heads.map((head) => head.layer + "," + head.head))) : null));
    if (heads.length) {
      box.append(report.tableFor("All chosen heads as a table", ["Layer", "Head", "Kurtosis"],
        () => heads.map((head) => [String(head.layer), String(head.head), report.number(head.kurtosis)])));
    }
  }

  function heatmap(rows, chosen) {
    const values = rows.flat().filter(known);
    const top = Math.max(1e-12, ...values);
    const across = Math.max(1, ...rows.map((row) => row.length));
    const cells = rows.flatMap((row, layer) => row.map((value, head) => (known(value) ? svg("rect", {
      class: chosen.has(layer + "," + head) ? "cell chosen" : "cell", x: head * 10 + 0.75, y: layer * 10 + 0.75, width: 8.5, height: 8.5,
      style: { "--size": Math.max(0, value / top).toFixed(3) },
    }, svg("title", { text: `layer ${layer}, head ${head}: kurtosis ${report.number(value)}` })) : null)));
    return el("figure", { class: "head-map" },
      svg("svg", { viewBox: `0 0 ${across * 10} ${rows.length * 10}`, style: { width: Math.min(260, across * 18) + "px" }, role: "img", "aria-label": `Kurtosis of every head, ${rows.length} layers by ${across} heads` }, cells),
      el("figcaption", { text: "Kurtosis of every head: layers downwards, heads across; outlined are those chosen." }));
  }

  function buildFacts() {
    for (const note of data.notes) byId("notes").append(el("li", { text: note }));
    byId("notes").hidden = !data.notes.length;
    const { model, run, rollouts, suppression } = data;
    const facts = [["Model", model.id], ...(model.weights ? [["Weights", model.weights]] : []), ...(known(model.layers) ? [["Numbers", `${model.dtype}, ${model.layers} layers, ${model.heads} heads`]] : [])];
    const add = (name, value, unit) => { if (known(value)) facts.push([name, report.number(value) + (unit || "")]); };
    add("Device", run.device);
    if (known(run.seed)) facts.push(["Seed", String(run.seed)]);
    add("Date", run.date);
    add("Sentences", report.count);
    add("Tokens generated", run.tokens_generated);
    add("Time", run.seconds, " s");
    add("Speed", run.tokens_per_second, " tokens/s");
    add("Compilations", run.compilations);
    if (rollouts) {
      add("Rollouts per sentence", rollouts.per_sentence);
      facts.push(["Unfinished", report.percent(rollouts.unfinished_share)], ["Without an answer", report.percent(rollouts.unanswered_share)]);
      facts.push(["Different below", "cosine " + rollouts.similarity_threshold]);
    }
    if (report.parts.hiding) add("Suppression KL", suppression.mode);
    for (const [name, version] of Object.entries(run.versions || {})) facts.push([name, String(version)]);
    const table = el("table", { class: "facts" }, el("tbody", {}, facts.map(([name, value]) => el("tr", {}, el("th", { scope: "row", text: name }), el("td", { text: value })))));
    byId("facts").append(table);
    if (run.config && Object.keys(run.config).length) {
      byId("facts").append(report.tableFor("Configuration", ["Setting", "Value"],
        () => Object.entries(run.config).map(([name, value]) => [name, typeof value === "string" ? value : JSON.stringify(value)])));
    }
    byId("colophon").textContent = "One file, no network. Method: Bogdan, Macar, Nanda and Conmy, Thought Anchors, arXiv 2506.19143.";
  }

  report.startFacts = function () {
    buildReceiver();
    buildFacts();
  };
})();
