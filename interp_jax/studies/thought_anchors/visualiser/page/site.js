// Starts the page: every part registers itself, then the first trace is opened.
(function () {
  "use strict";
  const report = window.report;
  const { byId, state } = report;
  let matrixStarted = false;
  let cleared = null;

  // The heat map measures its frame whenever it is told of something: it is told only while it is
  // shown, and of pointing at most once a frame.
  function startMatrix() {
    const { onChange, onHover } = report;
    const shown = () => state.view === "matrix";
    let waiting = false;
    report.onChange = (listener) => onChange((before) => shown() && listener(before));
    report.onHover = (listener) => onHover(() => {
      if (waiting || !shown()) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        listener();
      });
    });
    report.startMatrix();
    Object.assign(report, { onChange, onHover });
  }

  // The heat map starts with the first trace that has pairs, and forgets its cell with each trace.
  function tendMatrix() {
    const there = report.count > 1 && report.hasMatrix(report.matrix());
    byId("matrix-layout").hidden = !there;
    byId("matrix-table").hidden = !there;
    byId("matrix-none").hidden = there;
    if (there && !matrixStarted) {
      matrixStarted = true;
      startMatrix();
    }
    if (cleared !== state.trace) {
      cleared = state.trace;
      byId("matrix").dispatchEvent(new Event("mouseleave"));
    }
  }

  byId("help").open = innerHeight >= 900; // where there is room for it
  report.startPicker();
  report.startText();
  report.startCircle();
  report.startTree();
  report.startDetail();
  report.onTrace(tendMatrix);
  report.onChange(tendMatrix);
  report.startKeys();
  report.startState();
})();
