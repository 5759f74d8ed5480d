"use strict";
/** Blind tests: their dialog, what they share, and their files. */
klann.blind = (() => {
  const { deck, find, all, element } = klann;
  const choice = deck.choice;
  const dialog = find("#blind");
  const steps = ["setup", "abx", "rating", "result"];

  const step = (name) => steps.forEach((other) => (find(`#blind-${other}`).hidden = other !== name));
  const testKind = () => find("input[name=test]:checked").value;

  /** A whole number below `n`, each as likely. */
  function random(n) {
    const word = new Uint32Array(1);
    const even = 2 ** 32 - (2 ** 32 % n);
    do crypto.getRandomValues(word);
    while (word[0] >= even);
    return word[0] % n;
  }

  function shuffled(items) {
    const mixed = [...items];
    for (let last = mixed.length - 1; last > 0; last -= 1) {
      const other = random(last + 1);
      [mixed[last], mixed[other]] = [mixed[other], mixed[last]];
    }
    return mixed;
  }

  function open() {
    deck.pause();
    const versions = deck.shown(choice.take);
    find("#blind-take").textContent = choice.take.name;
    for (const slot of ["a", "b"]) {
      const options = versions.map(({ key, label }) => element("option", { text: label, value: key }));
      find(`#abx-${slot}`).replaceChildren(...options);
      find(`#abx-${slot}`).value = choice[slot].key;
    }
    find("#rated").replaceChildren(find("#rated legend"), ...versions.filter(deck.modelled).map(tick));
    find("#blind-match").checked = choice.match;
    klann.tell("fault", "");
    showKind();
    step("setup");
    dialog.showModal();
  }

  function tick({ key, label }) {
    const box = element("input", { type: "checkbox", value: key, checked: "" });
    return element("label", {}, box, ` ${label}`);
  }

  function showKind() {
    find("#abx-options").hidden = testKind() !== "abx";
    find("#rating-options").hidden = testKind() !== "rating";
  }

  const byKey = (key) => choice.take.versions.find((version) => version.key === key);

  /** What the chosen test compares; throws where that is no comparison. */
  function setup() {
    if (testKind() === "abx") {
      const [a, b] = [byKey(find("#abx-a").value), byKey(find("#abx-b").value)];
      const trials = Number(find("#abx-trials").value);
      if (a === b) throw new Error("A and B are the same version. Choose two.");
      if (!Number.isInteger(trials) || trials < 1 || trials > 100) throw new Error("Choose 1 to 100 trials.");
      return { versions: [a, b], begin: () => klann.abx.begin(a, b, trials) };
    }
    const rated = all("#rated input:checked").map((box) => byKey(box.value));
    if (rated.length === 0) throw new Error("Choose at least one version to rate.");
    const reference = deck.target(choice.take);
    const anchors = choice.take.versions.filter((version) => version.kind === "anchor");
    return {
      versions: [...rated, reference, ...anchors],
      begin: () => klann.rating.begin(reference, shuffled([...rated, reference, ...anchors])),
    };
  }

  /** All of its sounds are loaded first: waiting would tell them apart. */
  async function begin() {
    try {
      const { versions, begin } = setup();
      klann.tell("fault", "");
      deck.open(choice.take);
      await Promise.all(versions.map(deck.fetch));
      if (!dialog.open) return;
      deck.set({ match: find("#blind-match").checked, blind: true });
      step(testKind());
      begin();
      find(`#blind-${testKind()} button`).focus();
    } catch (error) {
      klann.tell("fault", error.message);
    }
  }

  /** Play a version without a word of which. */
  function play(version) {
    choice.hidden = version;
    return deck.play();
  }

  /** Stop, and have this version play next, from the passage's start. */
  function cue(version) {
    choice.hidden = version;
    deck.pause();
    deck.seek(choice.range?.[0] ?? 0);
  }

  function end() {
    deck.pause();
    klann.keys.use(null);
    choice.hidden = null;
    deck.set({ blind: false });
  }

  /** Show what came out, and offer it as a file. */
  function finish(name, result, ...shown) {
    const { take, match } = choice;
    const passage = choice.range ?? [0, take.seconds];
    end();
    const record = {
      test: name,
      page: klann.title,
      page_made: klann.made,
      date: new Date().toISOString(),
      take: take.name,
      loudness_matched: match,
      passage_seconds: passage,
      ...result,
    };
    find("#blind-outcome").replaceChildren(...shown);
    find("#blind-save").onclick = () => save(record, `${name}-${take.key}-${record.date.slice(0, 10)}.json`);
    step("result");
    find("#blind-save").focus();
  }

  function save(record, name) {
    const blob = new Blob([`${JSON.stringify(record, null, 2)}\n`], { type: "application/json" });
    const link = element("a", { href: URL.createObjectURL(blob), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000); // a download may begin late
  }

  find("#blind-open").addEventListener("click", open);
  find("#blind-begin").addEventListener("click", begin);
  for (const radio of all("input[name=test]")) radio.addEventListener("change", showKind);
  for (const button of all(".blind-close")) button.addEventListener("click", () => dialog.close());
  dialog.addEventListener("cancel", (event) => choice.blind && event.preventDefault()); // Escape loses no answers
  dialog.addEventListener("close", () => choice.blind && end());

  return { play, cue, finish, random };
})();
