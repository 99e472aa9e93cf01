// What the reader has chosen: sentence, method, matrix, filter. Kept in the address's hash.
// `sentence` is null when nothing is selected; 0 is a sentence like any other.
(function () {
  "use strict";
  const report = window.report;
  const state = (report.state = { sentence: null, method: null, matrix: null, filter: "all" });
  const listeners = [];
  const hoverListeners = [];
  let hovered = null;

  report.count = report.data.trace.sentences.length;
  // What a sentence was labelled as: {words, short, meaning, colour}, or null.
  report.tagOf = (name) => report.data.trace.tags.find((tag) => tag.name === name) || null;
  report.onChange = (listener) => listeners.push(listener);
  report.onHover = (listener) => hoverListeners.push(listener);

  // The sentence to explain now: the one pointed at, else the selected one.
  report.focusSentence = () => (hovered !== null ? hovered : state.sentence);

  report.hover = function (sentence) {
    if (sentence === hovered) return;
    hovered = sentence;
    for (const listener of hoverListeners) listener();
  };

  report.set = function (changes, keepAddress) {
    const before = { ...state };
    Object.assign(state, changes);
    if (!keepAddress) writeHash();
    for (const listener of listeners) listener(before);
    for (const listener of hoverListeners) listener();
  };
  report.select = (sentence) => report.set({ sentence });

  function writeHash() {
    const parts = new URLSearchParams();
    if (state.sentence !== null) parts.set("s", state.sentence);
    if (state.method) parts.set("by", state.method);
    if (state.matrix) parts.set("matrix", state.matrix);
    if (state.filter !== "all") parts.set("show", state.filter);
    history.replaceState(null, "", "#" + parts.toString());
  }

  // Returns what the hash asks for and this report can show.
  report.readHash = function () {
    const parts = new URLSearchParams(location.hash.slice(1));
    const asked = {};
    const sentence = parts.get("s");
    if (sentence !== null && /^\d{1,6}$/.test(sentence) && Number(sentence) < report.count) {
      asked.sentence = Number(sentence);
    }
    const method = report.methods.find((m) => m.key === parts.get("by") && m.available);
    if (method) asked.method = method.key;
    const matrix = report.matrices.find((m) => m.key === parts.get("matrix"));
    if (matrix) asked.matrix = matrix.key;
    if (parts.get("show") === "different") asked.filter = "different";
    return asked;
  };

  function move(step) {
    const from = state.sentence;
    if (from === null) return report.select(step > 0 ? 0 : report.count - 1);
    report.select(Math.min(report.count - 1, Math.max(0, from + step)));
  }
  report.move = move;

  function onKey(event) {
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target;
    const typing = target.closest && target.closest("input, select, textarea, summary, .table-scroll, canvas");
    if (event.key === "Escape") {
      if (document.activeElement && document.activeElement.closest("#trace")) document.activeElement.blur();
      report.hover(null);
      return report.select(null);
    }
    if (typing && /^Arrow/.test(event.key)) return;
    const inTrace = target.closest && target.closest("#trace");
    const vertical = inTrace || state.sentence !== null;
    if (event.key === "ArrowRight" || (event.key === "ArrowDown" && vertical)) move(1);
    else if (event.key === "ArrowLeft" || (event.key === "ArrowUp" && vertical)) move(-1);
    else if (/^[1-9]$/.test(event.key)) {
      const method = report.methods.filter((m) => m.available)[Number(event.key) - 1];
      if (!method) return;
      report.set({ method: method.key });
    } else return;
    event.preventDefault();
  }

  report.startState = function () {
    const first = report.methods.find((m) => m.available);
    state.method = first ? first.key : null;
    state.matrix = report.matrices.length ? report.matrices[0].key : null;
    Object.assign(state, report.readHash());
    document.addEventListener("keydown", onKey);
    window.addEventListener("hashchange", () =>
      report.set({ sentence: null, filter: "all", ...report.readHash() }, true));
  };
})();
