// The chosen latent: its numbers, histogram, logit effects, neighbours and examples.
(function () {
  "use strict";
  const report = window.report;
  const { el, byId, data, known, number, state } = report;
  const EFFECTS_HELP = "The effect of a unit step along the latent's decoder row on each token's logit, by the direct path: "
    + "the row scaled to length 1, times the gain of the final norm, times the token's column of the head. Left out: the norm's "
    + "division by the size of the stream (the numbers become logits after dividing by the stream's RMS), a soft-cap of the logits, and "
    + "all that later layers do.";
  let drawn; // nothing yet, which is not "no latent"

  const latentLink = (latent) => el("a", { class: "latent-link", href: "#latent=" + latent, text: latent, on: { click: (event) => {
    event.preventDefault();
    report.set({ latent });
  } } });

  function paintMeasures(latent) {
    byId("measures").replaceChildren(...report.columns.filter((column) => column.kind !== "class").map((column) =>
      el("div", { title: column.help }, el("dt", { text: column.name }), el("dd", { text: report.cell(column, report.valueOf(column, latent)) }))));
    const column = report.columns.find((one) => one.kind === "class");
    byId("badge").hidden = !column;
    if (!column) return;
    const place = report.valueOf(column, latent);
    byId("badge").textContent = column.classes[place];
    byId("badge").setAttribute("class", "badge badge-" + place);
  }

  function effectList(name, side, pairs) {
    const largest = Math.max(...pairs.map(([, value]) => Math.abs(value)), 1e-30);
    return el("div", {}, el("h4", { text: name }), el("ol", { class: "effects " + side }, pairs.map(([word, value]) =>
      el("li", {}, el("code", { text: report.aloneText(report.wordList[word]) }),
        el("i", { "aria-hidden": "true", style: { "--a": (Math.abs(value) / largest).toFixed(4) } }), el("b", { text: report.signed(value) })))));
  }

  function paintShown(latent, shown) {
    const largest = report.valueOf(report.column("max"), latent);
    const alive = shown.bins.length > 0;
    byId("histogram").replaceChildren(alive ? report.histogram(shown.bins, shown.bands) : el("p", { class: "missing", text: "Never active in the tokens looked at." }));
    byId("near").replaceChildren(...shown.near.map(([other, cosine]) => el("li", {}, latentLink(other), el("b", { text: cosine.toFixed(2).replace("-", "\u2212") }))));
    byId("near").closest("section").hidden = !shown.near.length;
    byId("effects-part").hidden = !shown.raised;
    if (shown.raised) byId("effects").replaceChildren(effectList("Raises most", "up", shown.raised), effectList("Lowers most", "down", shown.lowered));
    byId("examples").closest("section").hidden = !alive;
    byId("legend-max").textContent = number(largest);
    byId("examples").replaceChildren(...(alive ? report.exampleGroups(shown, largest) : []));
  }

  function paint() {
    const { latent } = state;
    if (latent === drawn) return;
    drawn = latent;
    byId("tip").hidden = true;
    byId("panel-title").textContent = known(latent) ? "Latent " + latent : "No latent chosen";
    document.title = (known(latent) ? `Latent ${latent} \u00b7 ` : "") + data.title;
    byId("shown").hidden = true;
    byId("badge").hidden = true;
    if (!known(latent)) {
      byId("status").textContent = "Choose one in the table.";
      document.documentElement.dataset.ready = "true";
      return;
    }
    byId("status").textContent = "Reading\u2026";
    document.documentElement.dataset.ready = "false";
    report.fetchLatent(latent, (missing, shown) => {
      if (latent !== state.latent) return; // another was chosen meanwhile
      if (missing) {
        drawn = undefined;
        byId("status").textContent = `${missing} could not be read. Keep index.html and data/ together.`;
        document.documentElement.dataset.ready = "failed";
        return;
      }
      byId("status").textContent = "";
      paintMeasures(latent);
      paintShown(latent, shown);
      byId("shown").hidden = false;
      byId("panel").scrollTop = 0;
      document.documentElement.dataset.ready = "true";
    });
  }

  report.startPanel = function () {
    byId("effects-title").textContent = "Logit effects" + (data.effects_of ? " of the row for " + data.effects_of : "");
    if (report.column("norm1")) byId("near-of").textContent = "by cosine, all outputs side by side";
    byId("effects-help").textContent = EFFECTS_HELP;
    byId("previous").addEventListener("click", () => report.step(-1));
    byId("next").addEventListener("click", () => report.step(1));
    report.startTip();
    report.onChange(paint);
  };
})();
