// The masking graph as a list: its strongest edges, each end a way to go.
(function () {
  "use strict";
  const report = window.report;
  const { data, el, byId, known } = report;

  report.startEdges = function () {
    const part = data.masking;
    if (!known(part)) return;
    if (!report.parts.deleting) {
      byId("edges").append(el("p", { class: "missing" }, el("b", { text: "Masking graph: not shown. " }), part.not_shown));
      return;
    }
    const shown = part.edges.length;
    const what = shown < part.count ? `The ${shown} strongest of ${report.number(part.count)} edges of the masking graph` : `The ${shown} edges of the masking graph`;
    byId("edges").append(report.tableFor(what,
      ["Deleted", "Changed", "KL, nats a token", "of the whole sentence", "of its first 3 tokens", "against its average"],
      () => part.edges.map((edge) => [
        report.sentenceButton(edge.source, String(edge.source)), report.sentenceButton(edge.target, String(edge.target)),
        report.number(edge.mean), report.number(edge.total), report.number(edge.first), report.signed(edge.cleaned)])));
  };
})();
