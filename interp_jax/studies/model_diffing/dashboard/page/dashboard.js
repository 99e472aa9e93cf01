// Starts the page: every part registers itself, then the address is read.
(function () {
  "use strict";
  const report = window.report;
  const { el, byId, data } = report;
  byId("title").textContent = data.title;
  byId("facts").replaceChildren(...data.facts.map(([name, text]) => el("div", {}, el("dt", { text: name }), el("dd", { text }))));
  byId("about").hidden = !data.provenance;
  byId("provenance").textContent = JSON.stringify(data.provenance, null, 2);
  report.startTable();
  report.startPanel();
  report.startKeys();
  report.startState();
})();
