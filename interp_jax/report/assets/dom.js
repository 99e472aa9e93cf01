// Elements made from text, and numbers written for people. Every report starts with this.
// Text from data only ever becomes a text node; there is no path from data to markup.
(function () {
  "use strict";
  const report = (window.report = window.report || {});
  const SVG = "http://www.w3.org/2000/svg";

  // options: class, text, on: {event: handler}, style: {property: value}, and attributes.
  function fill(node, options, children) {
    for (const [name, value] of Object.entries(options || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "class") node.setAttribute("class", value);
      else if (name === "text") node.textContent = value;
      else if (name === "on") {
        for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
      } else if (name === "style") {
        for (const [property, setting] of Object.entries(value)) node.style.setProperty(property, setting);
      } else node.setAttribute(name, value === true ? "" : value);
    }
    for (const child of children.flat()) {
      if (child === null || child === undefined || child === false) continue;
      node.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
    return node;
  }

  report.data = JSON.parse(document.getElementById("data").textContent);
  report.el = (name, options, ...children) => fill(document.createElement(name), options, children);
  report.svg = (name, options, ...children) => fill(document.createElementNS(SVG, name), options, children);
  report.byId = (id) => document.getElementById(id);
  report.known = (value) => value !== null && value !== undefined;
  report.hasRange = (range) => Array.isArray(range) && range.length === 2 && report.known(range[0]);

  // A name in mid-sentence: "Resampling, KL" becomes "resampling, KL".
  report.inText = (name) => name.charAt(0).toLowerCase() + name.slice(1);

  const minus = (text) => text.replace("-", "\u2212");

  // Three significant digits at most, no needless zeros after large numbers.
  report.number = function (value) {
    if (!report.known(value)) return "\u2013";
    if (typeof value !== "number") return String(value);
    const size = Math.abs(value);
    if (Number.isInteger(value)) return minus(value.toLocaleString("en-GB"));
    if (size >= 1000) return minus(Math.round(value).toLocaleString("en-GB"));
    if (size >= 100) return minus(value.toFixed(0));
    if (size >= 10) return minus(value.toFixed(1));
    if (size >= 0.095) return minus(value.toFixed(2));
    if (size >= 0.0001) return minus(Number(value.toPrecision(2)).toString());
    return minus(value.toExponential(1));
  };
  report.signed = (value) =>
    report.known(value) && value > 0 ? "+" + report.number(value) : report.number(value);
  report.percent = (value) => {
    if (!report.known(value)) return "\u2013";
    const hundred = value * 100;
    return (hundred > 0 && hundred < 10 ? Number(hundred.toFixed(1)) : Math.round(hundred)) + "\u2009%";
  };
  report.range = (range, write) =>
    report.hasRange(range) ? (write || report.number)(range[0]) + " to " + (write || report.number)(range[1]) : null;

  // A figure's numbers as a table, made when it is first opened.
  report.tableFor = function (summary, headings, rows) {
    const { el } = report;
    const box = el("div", { class: "table-scroll", tabindex: "0", role: "region", "aria-label": summary });
    const details = el("details", { class: "numbers" }, el("summary", { text: summary }), box);
    details.addEventListener("toggle", () => {
      if (!details.open || box.firstChild) return;
      const body = rows().map((row) =>
        el("tr", {}, row.map((cell, k) => el(k ? "td" : "th", { scope: k ? null : "row" }, cell))));
      box.append(el("table", {},
        el("thead", {}, el("tr", {}, headings.map((text) => el("th", { scope: "col", text })))),
        el("tbody", {}, body)));
    });
    return details;
  };
})();
