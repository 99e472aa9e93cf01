// The choices above and around the views: trace, measure, links, view, numbers, kinds.
(function () {
  "use strict";
  const report = window.report;
  const { data, el, byId, state } = report;
  const OUTCOMES = [["correct", "Correct"], ["incorrect", "Incorrect"], ["unknown", "Not graded"]];

  const option = (value, text, chosen, disabled) => el("option", { value, text, selected: chosen, disabled });
  const unique = (values) => [...new Set(values)];
  const label = (trace) => {
    const twins = data.traces.filter((other) => other.model === trace.model && other.outcome === trace.outcome && other.problem === trace.problem);
    const which = twins.length > 1 ? ` (${twins.indexOf(trace) + 1})` : "";
    return `${trace.problem}${which}${trace.title ? ", " + trace.title : ""}`;
  };

  // The trace nearest to the present one that has what is asked: same problem, then same outcome.
  function choose(asked) {
    const now = { ...report.entry(), ...asked };
    const score = (trace) => (trace.problem === now.problem ? 2 : 0) + (trace.outcome === now.outcome ? 1 : 0);
    const fitting = data.traces.filter((trace) => Object.entries(asked).every(([name, value]) => trace[name] === value));
    fitting.sort((a, b) => score(b) - score(a));
    report.open(fitting[0].id, { sentence: null, text: "" });
  }

  function paintTraces() {
    const now = report.entry();
    byId("model").replaceChildren(...unique(data.traces.map((trace) => trace.model)).map((model) => option(model, model, model === now.model)));
    const ofModel = data.traces.filter((trace) => trace.model === now.model);
    const held = document.activeElement && document.activeElement.name === "outcome";
    byId("outcome-switch").replaceChildren(el("legend", { class: "hidden", text: "Outcome of the trace" }),
      ...OUTCOMES.filter(([key]) => ofModel.some((trace) => trace.outcome === key)).map(([key, text]) =>
        el("label", {}, el("input", {
          type: "radio", name: "outcome", value: key, id: "outcome-" + key, checked: key === now.outcome,
          on: { change: () => choose({ model: report.entry().model, outcome: key }) },
        }), el("span", { text }))));
    if (held) byId("outcome-" + now.outcome).focus();
    byId("problem").replaceChildren(...ofModel.filter((trace) => trace.outcome === now.outcome)
      .map((trace) => option(trace.id, label(trace), trace.id === now.id)));
  }

  function paintMeasures() {
    byId("metric").replaceChildren(...(report.metric() ? [] : [option("", "Nothing was measured", true)]), ...report.metrics.map((metric) => {
      const missing = metric.missing();
      return option(metric.key, missing ? `${metric.name} (${missing})` : metric.name, metric.key === state.metric, Boolean(missing));
    }));
    byId("links-by").replaceChildren(...report.matrices.map((matrix) => {
      const there = report.hasMatrix(matrix);
      return option(matrix.key, there ? matrix.name : matrix.name + " (not in the files)", matrix.key === state.matrix, !there);
    }));
    const metric = report.metric();
    byId("metric-help").replaceChildren(...(metric
      ? [el("b", { text: metric.name + ". " }), metric.help] : [el("b", { text: "Nothing was measured. " }), "Sentences have one size."]));
    const matrix = report.matrix();
    byId("links-help").replaceChildren(...(report.hasMatrix(matrix) ? [el("b", { text: "Links: " + report.inText(matrix.name) + ". " }), matrix.help] : []));
    const key = (side, text) => el("span", { class: "line-key" }, el("i", { class: side, "aria-hidden": "true" }), text);
    byId("signs").replaceChildren(...(report.hasMatrix(matrix) ? matrix.ends.map((text, k) => key(k ? "hurts" : "helps", "Link: " + text)) : []),
      ...(metric && metric.helps ? [key("ring helps", "Ring: the sentence helps"), key("ring hurts", "Ring: it harms")]
        : metric && metric.signed ? [key("ring helps", "Ring: above zero"), key("ring hurts", "Ring: below zero")] : []));
  }

  function paintTags() {
    const counts = new Map();
    for (let i = 0; i < report.count; i++) {
      const { short } = report.tagOf(i);
      counts.set(short, (counts.get(short) || 0) + 1);
    }
    const held = document.activeElement && document.activeElement.dataset.tag;
    byId("tags").replaceChildren(...report.tags.filter((tag) => counts.has(tag.short)).map((tag) => el("button", {
      type: "button", class: "tag-key tag-" + tag.short, "data-tag": tag.short,
      "aria-pressed": state.off.includes(tag.short) ? "false" : "true",
      on: { click: () => report.set({ off: state.off.includes(tag.short) ? state.off.filter((t) => t !== tag.short) : [...state.off, tag.short] }) },
    }, el("i", { "aria-hidden": "true" }), tag.name, el("small", { text: counts.get(tag.short) }))));
    if (held) byId("tags").querySelector(`[data-tag="${held}"]`)?.focus();
  }

  function paintControls() {
    for (const view of report.views) {
      const chosen = view === state.view;
      byId("tab-" + view).setAttribute("aria-selected", chosen ? "true" : "false");
      byId("tab-" + view).setAttribute("tabindex", chosen ? "0" : "-1");
      byId("view-" + view).hidden = !chosen;
      byId("controls-" + view).hidden = !chosen;
    }
    for (const name of Object.keys(report.numbers)) {
      byId(name).value = state[name];
      byId(name + "-out").textContent = name === "top" ? state.top + "\u2009%" : state[name];
    }
    byId("way-" + state.way).checked = true;
    byId("signs").hidden = state.view === "matrix";
  }

  report.startPicker = function () {
    byId("model").addEventListener("change", () => choose({ model: byId("model").value }));
    byId("problem").addEventListener("change", () => report.open(byId("problem").value, { sentence: null, text: "" }));
    byId("metric").addEventListener("change", () => report.set({ metric: byId("metric").value }));
    byId("links-by").addEventListener("change", () => report.set({ matrix: byId("links-by").value }));
    for (const name of Object.keys(report.numbers)) {
      byId(name).addEventListener("input", () => report.set({ [name]: Number(byId(name).value) }));
    }
    for (const way of ["outgoing", "incoming"]) byId("way-" + way).addEventListener("change", () => report.set({ way }));
    report.views.forEach((view, k) => {
      const tab = byId("tab-" + view);
      tab.addEventListener("click", () => report.set({ view }));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        const next = event.key === "Home" ? 0 : event.key === "End" ? report.views.length - 1 : step ? (k + step + report.views.length) % report.views.length : null;
        if (next === null) return;
        event.preventDefault();
        report.set({ view: report.views[next] });
        byId("tab-" + report.views[next]).focus();
      });
    });
    report.onChange(() => {
      paintTraces();
      paintMeasures();
      paintTags();
      paintControls();
    });
    report.onHover(() => { byId("readout").textContent = report.linkText(report.focusSentence()); });
  };
})();
