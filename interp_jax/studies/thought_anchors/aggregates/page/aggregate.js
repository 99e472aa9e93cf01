// The page's state: which group, measure and control are shown. Runs last.
(function () {
  "use strict";
  const report = window.report;
  const { data, el, byId } = report;
  const groups = Object.keys(data.groups);
  const state = { group: groups[0], measure: null, control: "raw" };

  function choices(id, name, options, current, choose) {
    const field = byId(id);
    for (const old of field.querySelectorAll("label")) old.remove();
    field.hidden = options.length < 2;
    for (const [value, text] of options) {
      const input = el("input", { type: "radio", name, value, on: { change: () => choose(value) } });
      input.checked = value === current;
      field.append(el("label", {}, input, el("span", { text })));
    }
  }

  const members = () => data.groups[state.group].members.map((place) => data.traces[place]);

  function measureSwitch(group) {
    const measures = Object.keys(group.categories);
    if (!measures.includes(state.measure)) {
      state.measure = measures.includes("counterfactual_importance_kl") ? "counterfactual_importance_kl" : measures[0];
    }
    choices("measure-switch", "measure", measures.map((m) => [m, data.measures[m]]), state.measure, (value) => {
      state.measure = value;
      report.showCategories(data.groups[state.group], value);
    });
  }

  function show() {
    const group = data.groups[state.group];
    measureSwitch(group);
    report.showCategories(group, state.measure);
    report.showAgreement(group, state.control);
    report.showMatrices(group);
    report.showExplained(group);
    report.showShares(group);
    report.showAccuracy(members());
    report.showAnchors(members());
    const n = group.traces;
    byId("headline").textContent = `${n} ${n === 1 ? "trace" : "traces"}, ${report.number(group.sentences)} sentences, ` +
      `${report.number(group.per_trace.mean)} per trace` +
      (n > 2 ? ` (95 % interval ${report.range([group.per_trace.low, group.per_trace.high])}).` : ".");
  }

  const total = data.traces.length;
  byId("title").textContent = total === 1 ? "One trace" : `Over ${report.number(total)} traces`;
  byId("notes").append(...data.notes.map((text) => el("li", { text })));
  choices("group-switch", "group", groups.map((name) => [name, name]), state.group, (value) => {
    state.group = value;
    show();
  });
  const controls = [...new Set(groups.flatMap((name) => data.groups[name].agreements.map((one) => one.control)))];
  choices("control-switch", "control", controls.map((name) => [name, name === "raw" ? "nothing" : name]), state.control, (value) => {
    state.control = value;
    report.showAgreement(data.groups[state.group], value);
  });
  const versions = data.versions || {};
  byId("colophon").textContent = `Made by interp_jax ${versions.interp_jax || ""}. Choices: ` +
    Object.entries(data.config || {}).filter(([name]) => !["traces", "workdir"].includes(name))
      .map(([name, value]) => `${name} ${Array.isArray(value) ? value.join(",") || "none" : value}`).join("; ") + ".";
  show();
  document.documentElement.dataset.ready = "true";
})();
