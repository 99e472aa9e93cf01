// Keys: walk the table, go to a latent by number.
(function () {
  "use strict";
  const report = window.report;
  const { byId, data, state } = report;

  function stepTo(place) {
    if (!report.order.length) return;
    const bounded = Math.max(0, Math.min(report.order.length - 1, place));
    report.set({ latent: report.order[bounded] });
  }
  // From a latent that is filtered out, or from none, the first row is next.
  report.step = (by) => {
    const place = state.latent === null ? -1 : report.placeOf[state.latent];
    stepTo(place < 0 ? 0 : place + by);
  };
  const page = () => Math.max(1, Math.floor(byId("grid").clientHeight / 28) - 3);
  const KEYS = {
    ArrowDown: () => report.step(1), ArrowUp: () => report.step(-1), j: () => report.step(1), k: () => report.step(-1),
    PageDown: () => report.step(page()), PageUp: () => report.step(-page()),
    Home: () => stepTo(0), End: () => stepTo(report.order.length - 1),
  };

  function goTo() {
    const box = byId("goto");
    const fits = /^\s*\d+\s*$/.test(box.value) && Number(box.value) < data.latents;
    box.classList.toggle("wrong", !fits);
    box.title = fits ? "" : `Write a number from 0 to ${data.latents - 1}`;
    if (!fits) return;
    report.set({ latent: Number(box.value) });
    box.value = "";
    box.blur();
  }

  report.startKeys = function () {
    byId("goto").addEventListener("keydown", (event) => {
      if (event.key === "Enter") goTo();
      else if (event.key === "Escape") {
        byId("goto").value = "";
        byId("goto").classList.remove("wrong");
        byId("goto").blur();
      }
    });
    document.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // a jump would replace the hash, and with it every choice
      byId("panel-title").focus();
    });
    document.addEventListener("keydown", (event) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      const target = event.target.closest ? event.target : document.body;
      if (target.closest("input, select, textarea, summary")) return;
      if (event.key === "/") byId("goto").focus();
      else if (target.closest("#panel") && !["j", "k"].includes(event.key)) return; // scrolls by itself
      else if (KEYS[event.key]) KEYS[event.key]();
      else return;
      event.preventDefault();
    });
  };
})();
