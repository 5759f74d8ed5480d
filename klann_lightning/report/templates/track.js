"use strict";
/** The charts of the current version; the first, the track, moves with the player and selects what is looped. */
(() => {
  const { deck, charts, find, element } = klann;
  const choice = deck.choice;
  const COLUMNS = 2000; // of an envelope: two to four a pixel
  const SHORTEST = 0.01; // seconds that can be selected
  const SETTLE = 150; // milliseconds without another choice, before charts are drawn
  const CLICK = 4; // pixels: a longer way is a drag
  const place = find("#charts");
  const playhead = element("div", { class: "playhead", hidden: "" });
  let version = null; // whose charts are shown
  let frames = []; // {figure, heading, plot, note} of each chart

  const whole = () => [0, choice.take.seconds];
  const range = () => choice.range ?? whole();
  const track = () => frames[0]?.plot;

  function frame() {
    const heading = element("h3");
    const plot = element("div", { class: "plot empty", role: "img" });
    const note = element("figcaption");
    const holder = element("div", { class: "holder" }, plot);
    return { figure: element("figure", {}, heading, holder, note), heading, plot, note, holder };
  }

  /** Frames are kept when a version follows another, so that nothing jumps. */
  function show() {
    const { take } = choice;
    const seen = deck.modelled(choice.version) ? choice.version : deck.lastModel(take);
    if (seen === version) return;
    version = seen;
    find("#seen").textContent = `${version.label}, ${take.name}`;
    while (frames.length > version.charts.length) {
      const { figure, plot } = frames.pop();
      charts.forget(plot);
      figure.remove();
    }
    version.charts.forEach((chart, index) => {
      if (!frames[index]) {
        frames.push(frame());
        place.append(frames[index].figure);
      }
      const { heading, plot, note } = frames[index];
      heading.textContent = chart.title;
      note.textContent = chart.note;
      plot.setAttribute("aria-label", `${chart.title}: ${version.label}, ${take.name}`);
      plot.style.height = `${chart.height}px`;
      charts.show(plot, chart.key, index === 0 ? { adapt: adaptTrack, after: readyTrack } : {});
    });
    find("#zooming").hidden = frames.length === 0;
    if (frames.length) frames[0].holder.append(playhead);
    playhead.hidden = true;
  }

  /** One time axis for all of its parts; zooming in time alone; on touch screens a drag scrolls the page. */
  function adaptTrack(data, layout) {
    layout.xaxis ??= {};
    for (const [name, axis] of Object.entries(layout)) {
      if (/^yaxis\d*$/.test(name)) axis.fixedrange = true;
      if (!/^xaxis\d*$/.test(name)) continue;
      Object.assign(axis, { range: range(), autorange: false });
      if (name === "xaxis") delete axis.matches;
      else axis.matches = "x";
    }
    layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  }

  function readyTrack(plot) {
    if (!plot.dataset.wired) {
      plot.dataset.wired = "yes";
      plot.on("plotly_relayout", () => setRange(plot.layout.xaxis.range));
      plot.on("plotly_doubleclick", () => setRange(whole()));
      plot.addEventListener("pointerdown", press, true);
    }
    movePlayhead();
    if (choice.range) refine();
  }

  const margins = () => ({ l: 80, r: 80, t: 100, b: 80, ...track().layout.margin });

  /** A click goes to that place of the sound. */
  function press(down) {
    addEventListener("pointerup", (up) => {
      if (Math.hypot(up.clientX - down.clientX, up.clientY - down.clientY) > CLICK) return;
      const { l, r } = margins();
      const share = (up.clientX - track().getBoundingClientRect().left - l) / (track().clientWidth - l - r);
      const [from, to] = range();
      if (share >= 0 && share <= 1) deck.seek(from + share * (to - from));
    }, { once: true, capture: true });
  }

  function setRange([from, to]) {
    const end = choice.take.seconds;
    [from, to] = [Math.max(0, from), Math.min(end, to)];
    if (to - from < SHORTEST) [from, to] = [Math.min(from, end - SHORTEST), Math.min(from, end - SHORTEST) + SHORTEST];
    const next = from <= 0 && to >= end ? null : [from, to];
    const [a, b] = range();
    if (a === from && b === to) return;
    deck.set({ range: next });
  }

  function zoom(factor) {
    const [from, to] = range();
    const now = deck.seconds;
    const middle = now > from && now < to ? now : (from + to) / 2;
    const half = ((to - from) * factor) / 2;
    const left = Math.max(0, Math.min(middle - half, choice.take.seconds - 2 * half));
    setRange([left, left + 2 * half]);
  }

  async function showRange() {
    const [from, to] = range();
    find("#shown").textContent = choice.range
      ? `${klann.seconds(from, 3)} s to ${klann.seconds(to, 3)} s is shown, and looped`
      : "All of it is shown";
    find("#zoom-all").disabled = find("#zoom-out").disabled = choice.range === null;
    if (!track()?.dataset.wired) return;
    const [a, b] = track().layout.xaxis.range;
    if (a !== from || b !== to) await Plotly.relayout(track(), { "xaxis.range": [from, to] });
    movePlayhead();
    refine();
  }

  /** The visible part of a signal [T]: minima and maxima, or the samples where they are few. */
  function envelope(samples, rate, lowered_db) {
    const [from, to] = range();
    const first = Math.max(0, Math.floor(from * rate));
    const last = Math.min(samples.length, Math.ceil(to * rate) + 1);
    const restored = klann.amplitude(lowered_db);
    const step = last - first < 2 * COLUMNS ? 1 : (last - first) / COLUMNS;
    const [x, y] = [[], []];
    for (let left = first; left < last; left += step) {
      const part = samples.subarray(Math.floor(left), Math.max(Math.floor(left) + 1, Math.floor(left + step)));
      const ends = step === 1 ? [part[0]] : [Math.min(...part), Math.max(...part)];
      for (const end of ends) {
        x.push(left / rate);
        y.push(end * restored);
      }
    }
    return [x, y];
  }

  /** Draw the track's traces from the decoded sounds, as finely as the visible range needs. */
  function refine() {
    const plot = track();
    const traces = plot?.layout?.meta?.traces;
    const [wanted, output] = [deck.target(choice.take), version].map(deck.samples);
    if (!traces || !wanted || !output) return;
    const signals = { target: wanted, output, residual: output.map((x, n) => x - wanted[n]) };
    const names = Object.keys(signals).filter((name) => name in traces);
    const { sample_rate, lowered_db } = choice.take;
    const parts = names.map((name) => envelope(signals[name], sample_rate, lowered_db));
    Plotly.restyle(
      plot,
      { x: parts.map(([x]) => x), y: parts.map(([, y]) => y) },
      names.map((name) => traces[name]),
    );
  }

  function movePlayhead() {
    if (!track()?.dataset.wired) return;
    const { l, r, t, b } = margins();
    const [from, to] = range();
    const share = (deck.seconds - from) / (to - from);
    playhead.hidden = share < 0 || share > 1;
    playhead.style.transform = `translateX(${l + share * (track().clientWidth - l - r)}px)`;
    playhead.style.top = `${t}px`;
    playhead.style.bottom = `${b}px`;
  }

  let settling = 0;
  klann.on("choice", () => {
    clearTimeout(settling);
    settling = setTimeout(show, SETTLE);
  });
  klann.on("range", showRange);
  klann.on("tick", movePlayhead);
  klann.on("play", movePlayhead);
  klann.on("sound", () => choice.range && refine());
  addEventListener("resize", movePlayhead);
  find("#zoom-in").addEventListener("click", () => zoom(0.5));
  find("#zoom-out").addEventListener("click", () => zoom(2));
  find("#zoom-all").addEventListener("click", () => setRange(whole()));
  show();
  showRange();
})();
