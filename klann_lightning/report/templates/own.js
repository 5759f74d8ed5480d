"use strict";
/** The section to play a file of one's own: it shows what is chosen, and chooses. */
(() => {
  const { live, find, all, element } = klann;
  const [LOWEST_DB, HIGHEST_DB] = [-60, 6]; // of the meter
  const FALL = 20; // dB a second, at which the meter goes back
  const OVER = 2000; // milliseconds that the sign stays
  const drop = find("#own-drop");
  let level = LOWEST_DB; // that the meter shows
  let metered = 0; // when it did, in milliseconds
  let over = 0; // when the output was over full scale

  const kilohertz = (rate) => `${rate / 1000} kHz`;
  const decibels = (db) => `${db > 0 ? "+" : db < 0 ? "\u2212" : ""}${Math.abs(db)} dB`;

  function about({ name, rate, sampleRate, channels, left, seconds }) {
    const facts = [name, channels.length === 1 ? "mono" : "stereo", rate && kilohertz(rate), `${klann.seconds(seconds)} s`];
    const notes = [];
    if (rate === null) notes.push(`Decoded at ${kilohertz(sampleRate)}, the model's rate.`);
    else if (rate !== sampleRate) notes.push(`The browser has resampled it to ${kilohertz(sampleRate)}, the model's rate.`);
    if (left) notes.push(`Of its ${channels.length + left} channels the first ${channels.length} are played.`);
    return [element("strong", { text: facts.filter(Boolean).join(" · ") }), ...notes.map((text) => element("span", { text }))];
  }

  let shown = null; // the sound that is told of
  function showSound() {
    const { sound } = live;
    find("#own-panel").hidden = !sound;
    if (!sound || sound === shown) return;
    shown = sound;
    find("#own-about").replaceChildren(...about(sound));
    find("#own-saved").textContent = "";
    find("#own-place").max = sound.seconds;
  }

  function showPlace() {
    const toggle = find("#own-toggle");
    toggle.classList.toggle("playing", live.playing);
    toggle.setAttribute("aria-label", live.playing ? "Pause your file" : "Play your file");
    const whole = live.sound?.seconds ?? 1;
    const slider = find("#own-place");
    slider.value = live.seconds;
    slider.style.setProperty("--done", `${(100 * live.seconds) / whole}%`);
    const [now, end] = [klann.seconds(live.seconds), klann.seconds(whole)];
    slider.setAttribute("aria-valuetext", `${now} s of ${end} s`);
    find("#own-time").textContent = live.sound ? `${now} / ${end} s` : "";
  }

  function showPeak(peak, running) {
    if (!running) [level, over] = [LOWEST_DB, 0];
    const now = performance.now();
    if (peak > 1) over = now;
    const fallen = level - (FALL * (now - metered)) / 1000;
    level = Math.max(LOWEST_DB, fallen, 20 * Math.log10(peak));
    metered = now;
    const meter = find("#own-meter");
    const within = Math.min(level, HIGHEST_DB);
    const loud = over > 0 && now - over < OVER;
    const text = level > LOWEST_DB ? decibels(Math.round(level)) : "";
    meter.style.setProperty("--level", `${(100 * (within - LOWEST_DB)) / (HIGHEST_DB - LOWEST_DB)}%`);
    meter.classList.toggle("over", loud);
    meter.setAttribute("aria-valuenow", within.toFixed(0));
    meter.setAttribute("aria-valuetext", text || "silence");
    find("#own-peak").textContent = text;
    const sign = loud ? "over full scale" : "";
    if (find("#own-over").textContent !== sign) find("#own-over").textContent = sign;
  }

  function show({ fault, peak, running }) {
    if (fault !== undefined) find("#own-fault").textContent = fault;
    showSound();
    showPlace();
    if (peak !== undefined) showPeak(peak, running);
  }

  async function toggle() {
    if (live.playing) return live.pause();
    klann.deck?.pause();
    await live.play();
  }

  function chosen() {
    const model = klann.models.find(({ key }) => key === find("#own-model").value);
    live.choose(model, Number(find("input[name=own-times]:checked").value));
  }

  async function take(file) {
    if (!file) return;
    drop.setAttribute("aria-busy", "true");
    await live.take(file);
    drop.removeAttribute("aria-busy");
  }

  async function save() {
    const button = find("#own-save");
    const { name, seconds: length } = live.sound;
    const { key } = live.model;
    button.disabled = true;
    find("#own-saved").textContent = "Computing…";
    try {
      const { wav, seconds } = await live.render();
      const link = element("a", { href: URL.createObjectURL(wav), download: `${name.replace(/\.\w+$/, "")}-${key}.wav` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000); // a download may begin late
      const times = length / seconds;
      find("#own-saved").textContent =
        `${klann.seconds(length)} s took ${klann.seconds(seconds, 2)} s: ${times.toFixed(times < 10 ? 1 : 0)} times real time.`;
    } catch (error) {
      find("#own-saved").textContent = "";
      show({ fault: error.message });
    }
    button.disabled = false;
  }

  find("#own-file").addEventListener("change", (event) => take(event.target.files[0]));
  find("#own").addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  for (const end of ["dragleave", "drop"]) find("#own").addEventListener(end, () => drop.classList.remove("over"));
  find("#own").addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
  find("#own-toggle").addEventListener("click", toggle);
  find("#own-place").addEventListener("input", (event) => live.seek(Number(event.target.value)));
  find("#own-model").addEventListener("change", chosen);
  for (const radio of all("input[name=own-times]")) radio.addEventListener("change", chosen);
  const setHeard = () => live.set({
    loop: find("#own-loop").checked,
    wet: Number(find("input[name=own-hear]:checked").value),
  });
  for (const input of all("#own-loop, input[name=own-hear]")) input.addEventListener("change", setHeard);
  for (const name of ["drive", "level"]) {
    const slider = find(`#own-${name}`);
    const showGain = () => {
      const text = decibels(Number(slider.value));
      find(`output[for=own-${name}]`).textContent = text;
      slider.setAttribute("aria-valuetext", text);
      live.set({ [name]: klann.amplitude(Number(slider.value)) });
    };
    slider.addEventListener("input", showGain);
    slider.addEventListener("dblclick", () => {
      slider.value = 0;
      showGain();
    });
    showGain();
  }
  find("#own-save").addEventListener("click", save);

  klann.on("live", show);
  klann.on("play", () => klann.engine.playing && live.pause());
  klann.on("choice", () => klann.deck.choice.blind && live.pause());
  show({});
  setHeard(); // a browser may remember what was chosen before the page was loaded again
  chosen();
  take(find("#own-file").files[0]);
})();
