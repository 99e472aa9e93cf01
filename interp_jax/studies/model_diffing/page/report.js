// Puts the page together. Runs last.
(function () {
  "use strict";
  const report = window.report;
  const { data, el, byId, place } = report;
  byId("title").textContent = data.pair;
  const facts = data.facts;
  byId("made").textContent = `${facts.site}; ${facts.data}; ${report.number(Math.round(facts.seconds))} s, ${facts.compilations} programs compiled.`;
  place("findings", data.findings.map((text) => el("li", { text })));
  report.showQuality();
  report.choices("delta-switch", "latents", [["alive", "that fire"], ["all", "all"]], "alive", report.showDelta);
  report.showDelta("alive");
  report.showScaling();
  if (data.causality) {
    const sets = Object.entries(report.SETS).filter(([name]) => data.causality.cells.some((cell) => cell.set === name));
    report.choices("set-switch", "set", sets, sets[0][0], report.showCausality);
    report.showCausality(sets[0][0]);
  } else {
    place("causality", report.missing("The causality experiment was not run; --stage=causality runs it, or says why it cannot."));
  }
  report.showTemplate();
  report.showTwins();
  report.showExplained();
  report.showRun();
  document.documentElement.dataset.ready = "true";
})();
