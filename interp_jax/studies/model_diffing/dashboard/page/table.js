// The table: only the rows in view are in the document, however many latents there are.
(function () {
  "use strict";
  const report = window.report;
  const { el, byId, data, state } = report;
  const HEIGHT = 28; // of a row, as in the style sheet
  const SPARE = 6; // rows beyond either edge
  const heads = new Map();
  const shownRows = new Map(); // row -> element
  let painted = null;

  const keysOf = () => [{ key: "latent", name: "Latent", help: "The latent's number in the dictionary, from 0.", kind: "latent" }, ...report.columns];

  function headCell(column) {
    const button = el("button", { type: "button", class: "sort", on: { click: () => sortBy(column) } }, el("span", { text: column.name }), el("i", { "aria-hidden": "true" }));
    const filter = column.kind === "latent" ? null : column.kind === "class" ? select(column) : box(column);
    const cell = el("div", { class: "cell head-cell kind-" + column.kind, role: "columnheader", on: { mouseenter: () => tell(column), focusin: () => tell(column) } }, button, filter);
    heads.set(column.key, { cell, filter });
    return cell;
  }
  const tell = (column) => { byId("readout").replaceChildren(el("b", { text: column.name }), " " + column.help); };

  function box(column) {
    return el("input", {
      type: "text", class: "filter", placeholder: "any", "aria-label": "Filter by " + column.name, autocomplete: "off", spellcheck: "false",
      on: { input: (event) => report.set({ filters: { ...state.filters, [column.key]: event.target.value } }) },
    });
  }
  function select(column) {
    return el("select", {
      class: "filter", "aria-label": "Filter by " + column.name,
      on: { change: (event) => report.set({ filters: { ...state.filters, [column.key]: event.target.value } }) },
    }, el("option", { value: "", text: "any" }), column.classes.map((name) => el("option", { value: name, text: name })));
  }

  function sortBy(column) {
    const first = column.kind === "latent" || column.kind === "class";
    report.set(state.sort === column.key ? { up: !state.up } : { sort: column.key, up: first });
  }

  function row(place) {
    const latent = report.order[place];
    const cells = report.columns.map((column) => {
      const value = report.valueOf(column, latent);
      const text = report.cell(column, value);
      if (column.kind !== "delta" || value === null) return el("div", { class: "cell kind-" + column.kind, role: "gridcell", text });
      return el("div", { class: "cell kind-delta", role: "gridcell" },
        el("span", { class: "track", "aria-hidden": "true" }, el("i", { style: { "--at": value } })), text);
    });
    return el("div", {
      class: "row" + (latent === state.latent ? " chosen" : ""), role: "row", "data-latent": latent, "aria-rowindex": place + 2, "aria-selected": latent === state.latent ? "true" : "false",
      style: { top: place * HEIGHT + "px" },
    }, el("div", { class: "cell kind-latent", role: "rowheader", text: latent }), cells);
  }

  // Rows that stay in view stay in the document.
  function paint(anew) {
    const grid = byId("grid");
    const top = Math.max(0, grid.scrollTop);
    const first = Math.max(0, Math.floor(top / HEIGHT) - SPARE);
    const last = Math.min(report.order.length, Math.ceil((top + grid.clientHeight) / HEIGHT) + SPARE);
    if (anew) {
      for (const node of shownRows.values()) node.remove();
      shownRows.clear();
    }
    for (const [place, node] of shownRows) {
      if (place >= first && place < last) continue;
      node.remove();
      shownRows.delete(place);
    }
    const fresh = document.createDocumentFragment();
    for (let place = first; place < last; place++) {
      if (shownRows.has(place)) continue;
      const node = row(place);
      shownRows.set(place, node);
      fresh.append(node);
    }
    byId("rows").append(fresh);
  }

  function paintHead() {
    for (const [key, { cell, filter }] of heads) {
      const sorted = state.sort === key;
      cell.classList.toggle("sorted", sorted);
      cell.classList.toggle("up", sorted && state.up);
      cell.setAttribute("aria-sort", sorted ? (state.up ? "ascending" : "descending") : "none");
      if (!filter) continue;
      const text = state.filters[key] || "";
      if (filter.value !== text) filter.value = text;
      const wrong = text.trim() !== "" && filter.tagName === "INPUT" && !report.readFilter(text);
      filter.classList.toggle("wrong", wrong);
      filter.setAttribute("aria-invalid", wrong ? "true" : "false");
      filter.title = wrong ? "Write >0.9, <1e-3 or 0.4..0.6" : "";
    }
    const some = Object.values(state.filters).some((text) => text);
    byId("clear").hidden = !some;
    const { length } = report.order;
    byId("count").textContent = length === data.latents ? report.number(length) : `${report.number(length)} of ${report.number(data.latents)}`;
    byId("nothing").hidden = length > 0;
    byId("grid").setAttribute("aria-rowcount", length + 1);
  }

  report.showRow = function (latent) {
    const place = report.placeOf[latent];
    if (place === undefined || place < 0) return;
    const grid = byId("grid");
    const head = byId("head").offsetHeight;
    const room = grid.clientHeight - head;
    const top = place * HEIGHT;
    if (top < grid.scrollTop) grid.scrollTop = top;
    else if (top + HEIGHT > grid.scrollTop + room) grid.scrollTop = top + HEIGHT - room;
  };

  report.startTable = function () {
    const columns = keysOf();
    const widths = columns.map((column) => ({ latent: "5.6rem", class: "6.4rem", delta: "6.7rem" }[column.kind] || "4.7rem"));
    byId("grid").style.setProperty("--columns", widths.join(" ") + " 1fr");
    byId("head").append(el("div", { class: "row head-row", role: "row", "aria-rowindex": 1 }, columns.map(headCell)));
    byId("grid").setAttribute("aria-colcount", columns.length);
    byId("clear").addEventListener("click", () => report.set({ filters: {} }));
    let asked = false;
    const soon = () => {
      if (asked) return;
      asked = true;
      requestAnimationFrame(() => {
        asked = false;
        paint(false);
      });
    };
    byId("grid").addEventListener("scroll", soon, { passive: true });
    window.addEventListener("resize", soon);
    byId("rows").addEventListener("click", (event) => {
      const found = event.target.closest(".row");
      if (found) report.set({ latent: Number(found.dataset.latent) });
    });
    report.onChange((before) => {
      const now = JSON.stringify([state.sort, state.up, state.filters]);
      const moved = now !== painted;
      if (moved) {
        report.sortRows();
        byId("rows").style.setProperty("height", report.order.length * HEIGHT + "px");
        if (painted !== null) byId("grid").scrollTop = 0;
        painted = now;
        paintHead();
      }
      // Sorting shows the table's top; choosing shows what was chosen.
      if (state.latent !== null && state.latent !== before.latent) report.showRow(state.latent);
      paint(true);
    });
  };
})();
