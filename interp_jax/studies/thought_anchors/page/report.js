// Starts the page: every part registers itself, then the first state is shown.
(function () {
  "use strict";
  const report = window.report;
  report.startState();
  report.startTrace();
  report.startBars();
  report.startAnswers();
  report.startMatrix();
  report.startEdges();
  report.startAblation();
  report.startPanel();
  report.startFacts();
  report.set({}, true);
  document.documentElement.dataset.ready = "true";
})();
