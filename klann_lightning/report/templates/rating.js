"use strict";
/** Rating after ITU-R BS.1534 (MUSHRA): an open reference; versions, hidden reference and anchor by letters. */
klann.rating = (() => {
  const { blind, find, element } = klann;
  const ROLES = { target: "hidden reference", anchor: "anchor" };
  let test = null; // {since, stimuli: [{version, letter, played, rating, row...}]}

  function begin(reference, versions) {
    const stimuli = versions.map((version, index) => stimulus(version, letter(index)));
    test = { since: performance.now(), stimuli };
    find("#rating-stimuli").replaceChildren(...stimuli.map(({ row }) => row));
    const open = find("#rating-reference");
    open.onclick = () => listen(open, reference);
    const numbers = stimuli.map((one, index) => [`${index + 1}`, () => one.listen()]);
    klann.keys.use({ ...Object.fromEntries(numbers), r: () => listen(open, reference) });
    blind.cue(reference);
    mark(open);
    show();
  }

  /** A to Z, then A2 to Z2. */
  const letter = (index) => String.fromCharCode(65 + (index % 26)) + (index < 26 ? "" : Math.floor(index / 26) + 1);

  function stimulus(version, letter) {
    const button = element("button", { type: "button", text: letter, "aria-label": `Play ${letter}` });
    const slider = element("input", {
      type: "range", min: 0, max: 100, value: 50, class: "unrated", "aria-label": `Rating of ${letter}`,
    });
    const shown = element("output", { text: "–" });
    const made = { version, letter, played: false, rating: null };
    made.row = element("li", {}, button, slider, shown);
    made.button = button;
    made.listen = () => {
      made.played = true;
      listen(button, version);
      show();
    };
    const rate = () => {
      made.rating = Number(slider.value);
      shown.textContent = slider.value;
      slider.classList.remove("unrated");
      slider.setAttribute("aria-valuetext", `${slider.value}, ${word(made.rating)}`);
      show();
    };
    slider.setAttribute("aria-valuetext", "not rated");
    slider.addEventListener("input", rate);
    slider.addEventListener("pointerup", rate); // for a rating of exactly where it stood
    button.addEventListener("click", made.listen);
    return made;
  }

  const word = (rating) => ["Bad", "Poor", "Fair", "Good", "Excellent"][Math.min(4, Math.floor(rating / 20))];

  function mark(button) {
    const buttons = [find("#rating-reference"), ...test.stimuli.map((one) => one.button)];
    for (const one of buttons) one.setAttribute("aria-pressed", one === button);
  }

  function listen(button, version) {
    mark(button);
    blind.play(version);
  }

  function show() {
    const left = test.stimuli.filter(({ played, rating }) => !played || rating === null);
    find("#rating-submit").disabled = left.length > 0;
    find("#rating-left").textContent = left.length
      ? `Still to play and rate: ${left.map(({ letter }) => letter).join(", ")}.`
      : "All are rated.";
  }

  function submit() {
    const stimuli = test.stimuli.map(({ letter, version, rating }) => ({
      letter, key: version.key, label: version.label, role: ROLES[version.kind] ?? "version", rating,
    }));
    const seconds = Math.round(performance.now() - test.since) / 1000;
    const cells = (name, values) => values.map((text) => element(name, { text }));
    const ordered = [...stimuli].sort((one, other) => other.rating - one.rating);
    const body = ordered.map(({ letter, label, role, rating }) =>
      element("tr", {}, ...cells("td", [label, role, letter, rating])));
    const head = element("tr", {}, ...cells("th", ["Version", "Role", "Letter", "Rating"]));
    for (const cell of head.children) cell.setAttribute("scope", "col");
    blind.finish(
      "rating",
      { method: "after ITU-R BS.1534", seconds, stimuli },
      element("table", {}, element("thead", {}, head), element("tbody", {}, ...body)),
    );
  }

  find("#rating-submit").addEventListener("click", submit);
  return { begin };
})();
