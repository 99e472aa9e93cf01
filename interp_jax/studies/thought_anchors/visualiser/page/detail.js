// The detail panel: one sentence, its numbers with their signs explained, its links, what it
// depends on, and what the model writes in its place.
(function () {
  "use strict";
  const report = window.report;
  const { el, byId, known, state } = report;
  const [FIRST, LINKS] = [8, 5];
  let shownAll = false;
  let last = undefined;

  report.sentenceButton = (sentence, text) => el("button", {
    type: "button", class: "sentence-link", text: text || String(sentence), "data-sentence": sentence,
    "aria-label": "Sentence " + sentence,
    on: {
      click: () => report.select(sentence),
      mouseenter: () => report.hover(sentence),
      mouseleave: () => report.hover(null),
    },
  });
  const words = (i) => el("span", { class: "snippet", dir: "auto", text: report.trace.sentences[i].text || "" });

  function overview() {
    const metric = report.metric();
    const order = metric ? report.strongest().filter((i) => metric.value(i)).slice(0, 6) : [];
    const keys = [["\u2190 \u2192 \u2191 \u2193", "walk from sentence to sentence"], ["Home End", "first, last"], ["Enter", "pin"], ["Esc", "let go"], ["/", "filter by words"], ["1 2 3", "circle, tree, matrix"]];
    return [
      el("h2", { text: "Choose a sentence" }),
      el("p", { class: "aside", text: "Its numbers, its links and what the model writes in its place appear here." }),
      order.length ? el("h3", {}, "Strongest ", el("small", { text: report.inText(metric.name) })) : null,
      el("ol", { class: "ranking" }, order.map((i) => el("li", {}, report.sentenceButton(i), words(i),
        el("span", { class: "figure " + metric.side(metric.value(i)), text: metric.write(metric.value(i)) })))),
      el("h3", { text: "Keys" }),
      el("dl", { class: "keys" }, keys.map(([key, what]) => el("div", {}, el("dt", {}, key.split(" ").map((one) => el("kbd", { text: one }))), el("dd", { text: what })))),
    ];
  }

  function head(i) {
    const sentence = report.trace.sentences[i];
    const step = (by, name, mark) => el("button", {
      type: "button", class: "icon", "aria-label": name, text: mark, "data-step": by,
      disabled: i + by < 0 || i + by >= report.count, on: { click: () => report.select(i + by) },
    });
    return [
      el("div", { class: "panel-head" },
        el("h2", {}, "Sentence " + i, el("small", { text: " of 0\u2013" + (report.count - 1) })),
        step(-1, "Previous sentence", "\u2190"), step(1, "Next sentence", "\u2192"),
        el("button", { type: "button", class: "icon", "aria-label": "Let go", text: "\u00d7", id: "close", on: { click: () => report.select(null) } })),
      el("p", { class: "kinds" }, report.tagsOf(i).map((tag) => el("span", { class: "kind tag-" + tag.short }, el("i", { "aria-hidden": "true" }), tag.name)),
        sentence.summary ? el("span", { class: "summary", text: sentence.summary }) : null),
      el("p", { class: "quote", dir: "auto", id: "quote", text: known(sentence.text) ? sentence.text : "(text not in the files)" }),
    ];
  }

  function numbers(i) {
    const { values } = report.trace;
    const rows = report.metrics.filter((metric) => !metric.missing()).map((metric) => {
      const value = metric.value(i);
      const verdict = metric.verdict(value);
      return el("div", { class: metric.key === state.metric ? "current" : null, "data-metric": metric.key },
        el("dt", {}, metric.name, el("small", { text: !metric.helps ? metric.unit : metric.helps > 0 ? "positive helps" : "negative helps" })),
        el("dd", {}, el("b", { class: metric.side(value), text: known(value) ? metric.write(value) : "undefined" }), verdict ? el("small", { text: verdict }) : null));
    });
    const share = (name, text, note) => (values[name] && known(values[name][i]) ? el("div", { "data-metric": name },
      el("dt", {}, text, el("small", { text: note })), el("dd", {}, el("b", { text: report.percent(values[name][i]) }))) : null);
    rows.push(share("accuracy", "Accuracy", "written on from before it"),
      share("different_trajectories_fraction", "New sentence differs", "share of rollouts"),
      share("overdeterminedness", "Overdetermined", "1 \u2212 distinct texts / rollouts"));
    const ends = i === report.count - 1 && values.accuracy ? el("p", { class: "aside", text: "The last sentence has no later one to be compared with; files then hold zeros." }) : null;
    return rows.some(Boolean) ? [el("h3", { text: "Importance" }), el("dl", { class: "measures" }, rows.filter(Boolean)), ends] : [];
  }

  function links(i) {
    const matrix = report.matrix();
    if (!report.hasMatrix(matrix)) return [];
    const found = report.linksOf(i, LINKS);
    const list = (way, name) => el("div", { class: way }, el("h4", { text: name }),
      found[way].length ? el("ol", { class: "ranking" }, found[way].map((link) => el("li", {}, report.sentenceButton(link.sentence), words(link.sentence),
        el("span", { class: "figure " + report.linkSide(link.value), text: matrix.write(link.value) })))) : el("p", { class: "aside", text: "none" }));
    return [el("h3", {}, "Strongest links ", el("small", { text: report.inText(matrix.name) })), list("outgoing", "Leads to"), list("incoming", "Draws on")];
  }

  function dependencies(i) {
    const all = report.trace.sentences;
    const on = all[i].depends;
    const of = all.map((_, j) => j).filter((j) => all[j].depends.includes(i));
    if (!all.some((sentence) => sentence.depends.length)) return [];
    const list = (name, items, id) => el("div", { id }, el("dt", { text: name }), el("dd", {}, items.length ? items.map((j) => report.sentenceButton(j)) : "none"));
    return [el("h3", {}, "Dependencies ", el("small", { text: "as labelled" })), el("dl", { class: "depends" }, list("Depends on", on, "depends-on"), list("Needed by", of, "needed-by"))];
  }

  function alternatives(i) {
    const groups = report.trace.alternatives[i];
    if (!groups.length) return [];
    const total = groups.reduce((sum, group) => sum + group.count, 0);
    const visible = shownAll ? groups : groups.slice(0, FIRST);
    const same = report.trace.sentences[i].text;
    const items = visible.map((group) => {
      const answers = group.answers ? Object.entries(group.answers).sort((a, b) => b[1] - a[1]) : [];
      const named = answers.slice(0, 3).map(([answer, count]) => `${answer === "" ? "no answer" : answer} \u00d7\u2009${count}`);
      if (answers.length > 3) named.push("\u2026");
      return el("li", { style: { "--size": (group.count / total).toFixed(3) } },
        el("span", { class: "times", text: group.count + "\u00d7" }),
        el("div", {}, el("p", { class: "quote", dir: "auto", text: group.text }),
          group.text === same ? el("p", { class: "aside same", text: "the same words as in the trace" }) : null,
          named.length ? el("p", { class: "aside answers" }, "answers ", named.join(", "),
            known(report.trace.is_correct) ? ` (${group.right} of ${group.count} right)` : null) : null));
    });
    return [
      el("h3", {}, "Written in its place ", el("small", { id: "alternative-count", text: `${total} times, ${groups.length} different texts` })),
      el("ol", { class: "alternatives", id: "alternatives" }, items),
      visible.length < groups.length ? el("button", {
        type: "button", class: "more", id: "more", text: `Show all ${groups.length}`, on: { click: () => { shownAll = true; render(true); } },
      }) : null,
    ];
  }

  function render(again) {
    const panel = byId("detail");
    const i = report.trace ? report.detailSentence() : null;
    if (i !== last) {
      shownAll = false;
      panel.scrollTop = 0;
    } else if (!again) return;
    last = i;
    const held = panel.contains(document.activeElement) ? document.activeElement.dataset.step : null;
    if (!report.trace) return;
    panel.replaceChildren(...(i === null ? overview() : [head(i), numbers(i), links(i), dependencies(i), alternatives(i)].flat()).filter(Boolean));
    if (held) (panel.querySelector(`[data-step="${held}"]:not(:disabled)`) || byId("close") || panel).focus();
  }

  report.startDetail = function () {
    report.onChange(() => render(true));
    report.onHover(() => render(false));
  };
})();
