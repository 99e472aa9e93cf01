// The text panel: the problem, and the trace sentence by sentence, scrolled to what is chosen.
(function () {
  "use strict";
  const report = window.report;
  const { el, byId, known, state } = report;
  let rows = [];
  let followed = null;

  function paintProblem() {
    const { trace } = report;
    const entry = report.entry();
    byId("reading-title").textContent = entry.title || "Problem " + entry.problem;
    byId("question").textContent = trace.question || "";
    byId("question").hidden = !trace.question;
    const mark = trace.is_correct === true ? ["right", "correct"] : trace.is_correct === false ? ["wrong", "wrong"] : null;
    const verdict = [];
    if (known(trace.answer)) verdict.push(["This trace says", trace.answer, mark]);
    if (known(trace.right_answer)) verdict.push(["Right answer", trace.right_answer, null]);
    byId("verdict").replaceChildren(...verdict.map(([name, value, grade]) => el("div", {}, el("dt", { text: name }),
      el("dd", {}, el("span", { text: value }), grade ? el("span", { class: "mark " + grade[0], text: grade[1] }) : null))));
    byId("notes").replaceChildren(...trace.notes.map((text) => el("p", { class: "aside", text })));
  }

  function buildRows() {
    rows = report.trace.sentences.map((sentence, i) => el("li", {
      class: "row tag-" + report.tagOf(i).short, role: "button", tabindex: "-1", "data-index": i,
      on: {
        click: () => report.select(i),
        mouseenter: () => report.hover(i),
        mouseleave: () => report.hover(null),
        keydown: (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          report.select(i);
        },
      },
    },
    el("span", { class: "gutter" }, el("b", { text: i }), el("abbr", { title: report.tagsOf(i).map((tag) => tag.name).join(", "), text: report.tagOf(i).short === "XX" ? "" : report.tagOf(i).short })),
    el("span", { class: "words", dir: "auto", text: known(sentence.text) ? sentence.text : "(text not in the files)" }),
    el("span", { class: "meter", "aria-hidden": "true" }, el("i"))));
    byId("text").replaceChildren(...rows);
    byId("reading").scrollTop = 0;
  }

  function paint() {
    const metric = report.metric();
    let shown = 0;
    rows.forEach((row, i) => {
      const matches = report.matches(i);
      shown += matches;
      row.hidden = !matches;
      row.classList.toggle("pinned", state.sentence === i);
      row.setAttribute("aria-pressed", state.sentence === i ? "true" : "false");
      const bar = row.lastChild.firstChild;
      bar.setAttribute("class", metric ? metric.side(metric.value(i)) : "none");
      bar.style.setProperty("width", (report.size(i) * 100).toFixed(1) + "%");
    });
    const filtered = shown < report.count;
    byId("filter-count").textContent = filtered ? `${shown} of ${report.count} sentences` : `${report.count} sentences`;
    if (byId("filter").value !== state.text) byId("filter").value = state.text;
    byId("nothing").hidden = shown > 0;
  }

  function paintFocus() {
    const now = report.focusSentence();
    const links = report.linksOf(now, 3);
    const out = new Set(links.outgoing.map((link) => link.sentence));
    const into = new Set(links.incoming.map((link) => link.sentence));
    const stop = report.walked() !== null ? report.walked() : state.sentence !== null ? state.sentence : 0;
    rows.forEach((row, i) => {
      row.classList.toggle("focused", now === i);
      row.classList.toggle("walked", report.walked() === i);
      row.classList.toggle("link-out", out.has(i));
      row.classList.toggle("link-in", into.has(i));
      row.setAttribute("tabindex", i === stop ? "0" : "-1");
    });
    follow();
  }

  // Brings the walked or pinned sentence into the panel's view; pointing does not scroll.
  function follow() {
    const i = report.walked() !== null ? report.walked() : state.sentence;
    if (i === followed) return;
    followed = i;
    if (i === null || !rows[i] || rows[i].hidden) return;
    const inText = document.activeElement && document.activeElement.closest("#text");
    if (inText) rows[i].focus({ preventScroll: true });
    const panel = byId("reading");
    if (panel.scrollHeight <= panel.clientHeight + 1) return; // one column: the page scrolls
    const box = rows[i].getBoundingClientRect();
    const frame = panel.getBoundingClientRect();
    if (box.top < frame.top + 24 || box.bottom > frame.bottom - 24) {
      panel.scrollTop += box.top - frame.top - (frame.height - box.height) / 2;
    }
  }

  report.startText = function () {
    byId("filter").addEventListener("input", () => report.set({ text: byId("filter").value }));
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // a jump would replace the hash, and with it every choice
      byId("reading-title").focus();
    });
    report.onTrace(() => {
      followed = null;
      paintProblem();
      buildRows();
    });
    report.onChange(paint);
    report.onHover(paintFocus);
  };
})();
