// The files beside the page: words once, blocks of latents when one of them is asked for.
(function () {
  "use strict";
  const report = window.report;
  const { data } = report;
  const HELD = 48; // blocks kept in memory
  const blocks = new Map();
  const waiting = new Map(); // file name -> callbacks
  report.wordList = null;

  function load(name, done) {
    if (waiting.has(name)) return waiting.get(name).push(done);
    waiting.set(name, [done]);
    const script = report.el("script", { src: `${data.folder}/${name}.js` });
    const end = (failed) => {
      script.remove();
      const callbacks = waiting.get(name) || [];
      waiting.delete(name);
      for (const callback of callbacks) callback(failed ? `${data.folder}/${name}.js` : null);
    };
    script.addEventListener("load", () => end(false));
    script.addEventListener("error", () => end(true));
    document.head.append(script);
  }

  // Called by the files.
  report.words = (list) => { report.wordList = list; };
  report.block = function (number, latents) {
    blocks.set(number, latents);
    if (blocks.size > HELD) blocks.delete(blocks.keys().next().value);
  };

  const nameOf = (number) => String(number).padStart(5, "0");

  // done(missing file or null, what is shown of the latent)
  report.fetchLatent = function (latent, done) {
    const number = Math.floor(latent / data.block);
    const finish = () => {
      const block = blocks.get(number);
      blocks.delete(number); // asked for last, dropped last
      blocks.set(number, block);
      const [bins, top, bands, raised, lowered, near] = block[latent - number * data.block];
      done(null, { bins, top, bands, raised, lowered, near });
    };
    const withBlock = () => {
      if (blocks.has(number)) return finish();
      load(nameOf(number), (missing) => (missing || !blocks.has(number) ? done(missing || `${data.folder}/${nameOf(number)}.js`) : finish()));
    };
    if (report.wordList) return withBlock();
    load("words", (missing) => (missing || !report.wordList ? done(missing || `${data.folder}/words.js`) : withBlock()));
  };
})();
