// What the reader has chosen, kept in the address's hash: the latent, the order, the filters.
(function () {
  "use strict";
  const report = window.report;
  const { data, known } = report;
  const state = (report.state = { latent: null, sort: "latent", up: true, filters: {} });
  const listeners = [];

  report.columns = data.columns.map((column) => ({
    ...column,
    values: Float64Array.from(column.values, (value) => (value === null ? NaN : value)),
  }));
  report.column = (key) => report.columns.find((column) => column.key === key);
  report.valueOf = (column, latent) => {
    const value = column.values[latent];
    return Number.isNaN(value) ? null : value;
  };
  report.onChange = (listener) => listeners.push(listener);

  report.set = function (changes, keepAddress) {
    const before = { ...state };
    Object.assign(state, changes);
    if (!keepAddress) {
      // Going back in the browser goes back to the latent before, not through every filter typed.
      const method = before.latent !== state.latent && known(before.latent) ? "pushState" : "replaceState";
      history[method](null, "", hashOf());
    }
    for (const listener of listeners) listener(before);
  };

  function hashOf() {
    const parts = new URLSearchParams();
    if (known(state.latent)) parts.set("latent", state.latent);
    if (state.sort !== "latent" || !state.up) parts.set("sort", (state.up ? "" : "-") + state.sort);
    for (const [key, text] of Object.entries(state.filters)) if (text) parts.set("f." + key, text);
    return "#" + parts.toString();
  }

  // What the hash asks for; what it does not name, or names wrongly, is as on a first visit.
  function readHash() {
    const parts = new URLSearchParams(location.hash.slice(1));
    const text = parts.get("latent") || "";
    const latent = /^\d{1,9}$/.test(text) && Number(text) < data.latents ? Number(text) : null;
    const asked = parts.get("sort") || "latent";
    const sort = asked.replace(/^-/, "");
    const fits = sort === "latent" || report.column(sort);
    const filters = {};
    for (const column of report.columns) if (parts.get("f." + column.key)) filters[column.key] = parts.get("f." + column.key);
    return { latent, sort: fits ? sort : "latent", up: fits ? !asked.startsWith("-") : true, filters };
  }

  report.startState = function () {
    window.addEventListener("hashchange", () => report.set(readHash(), true));
    report.set(readHash(), true);
  };
})();
