// An example: its tokens, each shaded by the latent's activation there.
(function () {
  "use strict";
  const report = window.report;
  const { el, byId, number } = report;

  // Shading is linear in the activation, from nothing at 0 to full at the latent's maximum.
  report.contextOf = function ([peak, words, pairs], largest) {
    const active = new Map();
    for (let k = 0; k < pairs.length; k += 2) active.set(pairs[k], pairs[k + 1]);
    const value = active.get(peak);
    const spans = words.map((word, place) => {
      const here = active.get(place) || 0;
      const share = Math.min(here / largest, 1);
      return el("span", {
        class: "tok" + (here > 0 ? " on" : "") + (place === peak ? " peak" : ""), "data-value": here, "data-share": share.toFixed(4),
        style: here > 0 ? { "--a": share.toFixed(4) } : {}, text: report.tokenText(report.wordList[word]),
      });
    });
    return el("li", { class: "example" },
      el("span", { class: "value" }, el("b", { text: number(value) }), el("i", { "aria-hidden": "true", style: { "--a": Math.min(value / largest, 1).toFixed(4) } })),
      el("p", { class: "context", dir: "auto" }, spans));
  };

  const bandTitle = ([low, high], largest) => {
    const share = (value) => Math.round((value / largest) * 100);
    if (high === null || high > largest) return `${number(low)} and more, from ${share(low)}\u2009% of the maximum`;
    if (low === 0) return `below ${number(high)}, under ${share(high)}\u2009% of the maximum`;
    return `${number(low)} to ${number(high)}, ${share(low)} to ${share(high)}\u2009% of the maximum`;
  };

  report.exampleGroups = function (shown, largest) {
    const list = (examples) => el("ol", { class: "examples" }, examples.map((example) => report.contextOf(example, largest)));
    const groups = [el("h4", {}, "Strongest ", el("small", { text: "of different documents" })), list(shown.top)];
    for (const band of shown.bands) {
      if (!band[2].length) continue;
      groups.push(el("h4", {}, "Sampled ", el("small", { text: "peaks of " + bandTitle(band, largest) })), list(band[2]));
    }
    return groups;
  };

  report.startTip = function () {
    const tip = byId("tip");
    const hide = () => { tip.hidden = true; };
    byId("examples").addEventListener("mouseover", (event) => {
      const token = event.target.closest(".tok");
      if (!token) return hide();
      const value = Number(token.dataset.value);
      tip.replaceChildren(el("code", { text: report.aloneText(token.textContent) }),
        " " + (value > 0 ? `${number(value)}, ${Math.round(Number(token.dataset.share) * 100)}\u2009% of the maximum` : "not active"));
      tip.hidden = false;
      const box = token.getClientRects()[0];
      const width = tip.offsetWidth;
      tip.style.setProperty("left", Math.max(8, Math.min(innerWidth - width - 8, box.left + box.width / 2 - width / 2)) + "px");
      const above = box.top - tip.offsetHeight - 6;
      tip.style.setProperty("top", (above > 4 ? above : box.bottom + 6) + "px");
    });
    byId("examples").addEventListener("mouseleave", hide);
    byId("panel").addEventListener("scroll", hide, { passive: true });
  };
})();
