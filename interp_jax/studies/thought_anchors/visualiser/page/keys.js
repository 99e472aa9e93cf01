// Keys: walk, pin, let go, filter, and the views by number.
(function () {
  "use strict";
  const report = window.report;
  const { byId, state } = report;

  // To the next sentence that the reader's filters leave.
  function walk(to, step) {
    for (let i = to; i >= 0 && i < report.count; i += step) if (report.matches(i)) return report.walk(i);
  }

  const from = () => (report.walked() !== null ? report.walked() : state.sentence);
  const WALKS = {
    ArrowRight: () => walk(from() === null ? 0 : from() + 1, 1),
    ArrowDown: () => walk(from() === null ? 0 : from() + 1, 1),
    ArrowLeft: () => walk(from() === null ? report.count - 1 : from() - 1, -1),
    ArrowUp: () => walk(from() === null ? report.count - 1 : from() - 1, -1),
    Home: () => walk(0, 1),
    End: () => walk(report.count - 1, -1),
  };

  function letGo(target) {
    if (target === byId("filter")) {
      target.blur();
      return report.set({ text: "" });
    }
    if (target.closest("#text, #tree")) target.blur();
    report.select(null);
  }

  function onKey(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || !report.trace) return;
    const target = event.target.closest ? event.target : document.body;
    if (event.key === "Escape") return letGo(target);
    // These have their own use for keys.
    if (target.closest("input, select, textarea, summary, canvas, [role=tab], .table-scroll")) return;
    if (event.key === "/") byId("filter").focus();
    else if (/^[1-3]$/.test(event.key)) report.set({ view: report.views[Number(event.key) - 1] });
    else if (WALKS[event.key]) WALKS[event.key]();
    else if (event.key === "Enter" && report.walked() !== null && !target.closest("button, a, [role=button]")) report.select(report.walked());
    else return;
    event.preventDefault();
  }

  report.startKeys = () => document.addEventListener("keydown", onKey);
})();
