"use strict";
/** The listening table and the player's bar: they show what is chosen, and choose. */
(() => {
  const { deck, engine, find, all, element } = klann;
  const choice = deck.choice;
  const bar = find("#player");
  let listed = null; // the take whose versions the bar lists

  /** Selects, and the row of versions, hold those of the current take. */
  function list() {
    if (listed === choice.take) return;
    listed = choice.take;
    const versions = deck.shown(choice.take);
    find("#versions").replaceChildren(find("#versions legend"), ...versions.map(pill));
    for (const slot of ["a", "b"]) {
      find(`#pick-${slot}`).replaceChildren(
        ...versions.map((version) => element("option", { text: version.label, value: version.key })),
      );
    }
  }

  function pill(version, index) {
    const radio = element("input", { type: "radio", name: "version", value: version.key });
    radio.addEventListener("change", () => deck.select(choice.take, version));
    const number = index < 9 ? [element("kbd", { text: `${index + 1}`, "aria-hidden": "true" })] : [];
    return element("label", {}, radio, element("span", {}, ...number, version.label));
  }

  /** Move the row of versions, and never the page, so that this one is in its middle. */
  function reveal(label) {
    const row = find("#versions");
    if (label) row.scrollLeft = label.offsetLeft - (row.clientWidth - label.offsetWidth) / 2;
  }

  function showChoice() {
    list();
    const { take, version, blind } = choice;
    document.documentElement.classList.toggle("blind", blind);
    find("#now-version").textContent = blind ? "Blind test" : version.label;
    find("#now-take").textContent = blind ? "" : `${take.name}${choice.residual ? " · residual" : ""}`;
    for (const radio of all("#versions input")) radio.checked = !blind && radio.value === version.key;
    reveal(find("#versions input:checked")?.parentElement);
    for (const slot of ["a", "b"]) {
      find(`#pick-${slot}`).value = choice[slot].key;
      find(`#play-${slot}`).setAttribute("aria-pressed", !blind && choice[slot] === version);
    }
    for (const setting of ["loop", "match", "residual"]) find(`#${setting}`).checked = choice[setting];
    find("#flac").href = `audio/${version.key}.flac`;
    showPlay();
  }

  function showPlay() {
    const playing = engine.playing;
    for (const button of all("button.play")) {
      const current = !choice.blind && button.dataset.version === choice.version.key;
      button.setAttribute("aria-pressed", current && playing);
      button.closest("td").classList.toggle("current", current);
    }
    for (const button of all(".toggle")) {
      button.setAttribute("aria-label", playing ? "Pause" : "Play");
      button.classList.toggle("playing", playing);
    }
    if (playing) requestAnimationFrame(tick);
    showPlace();
  }

  let ticking = false;
  function tick() {
    if (ticking) return;
    ticking = true;
    requestAnimationFrame(() => {
      ticking = false;
      klann.tell("tick");
      if (engine.playing) tick();
    });
  }

  function showPlace() {
    const [now, whole] = [klann.seconds(deck.seconds), klann.seconds(choice.take.seconds)];
    for (const slider of all(".place")) {
      slider.max = choice.take.seconds;
      slider.value = deck.seconds;
      slider.style.setProperty("--done", `${(100 * deck.seconds) / choice.take.seconds}%`);
      slider.setAttribute("aria-valuetext", `${now} s of ${whole} s`);
    }
    find("#time").textContent = `${now} / ${whole} s`;
  }

  for (const button of all("button.play")) {
    const take = klann.takes.get(button.dataset.take);
    const version = take.versions.find((one) => one.key === button.dataset.version);
    button.addEventListener("click", () => {
      if (version === choice.version && take === choice.take) deck.toggle();
      else deck.select(take, version);
    });
  }
  for (const button of all(".toggle")) button.addEventListener("click", deck.toggle);
  for (const slider of all(".place")) {
    slider.addEventListener("input", () => deck.seek(Number(slider.value)));
  }
  for (const slot of ["a", "b"]) {
    find(`#play-${slot}`).addEventListener("click", () => deck.slot(slot));
    find(`#pick-${slot}`).addEventListener("change", (event) => {
      deck.set({ [slot]: choice.take.versions.find((version) => version.key === event.target.value) });
    });
  }
  find("#swap").addEventListener("click", deck.swap);
  for (const setting of ["loop", "match", "residual"]) {
    find(`#${setting}`).addEventListener("change", (event) => deck.set({ [setting]: event.target.checked }));
  }
  const volume = find("#volume");
  volume.addEventListener("input", () => (engine.volume = (volume.value / 100) ** 2)); // as loudness is heard
  const more = find("#more");
  more.addEventListener("click", () => {
    more.setAttribute("aria-expanded", bar.classList.toggle("open"));
  });

  klann.on("choice", showChoice);
  klann.on("play", showPlay);
  klann.on("tick", showPlace);
  klann.on("fault", (message) => all(".fault").forEach((line) => (line.textContent = message)));
  bar.hidden = false;
  showChoice();
})();
