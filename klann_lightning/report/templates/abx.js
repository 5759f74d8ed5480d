"use strict";
/** ABX: is X version A or version B? Whether one hears a difference at all. */
klann.abx = (() => {
  const { blind, find, element } = klann;
  let test = null; // {a, b, of, trials, x, heard, since}

  /** Probability of at least `correct` of `n` right by tossing a coin. */
  function chance(correct, n) {
    let term = 0.5 ** n; // of k = 0
    let sum = 0;
    for (let k = 0; k <= n; k += 1) {
      if (k >= correct) sum += term;
      term *= (n - k) / (k + 1);
    }
    return Math.min(1, sum);
  }

  function begin(a, b, of) {
    test = { a, b, of, trials: [] };
    find("#abx-names").textContent = `A is ${a.label}, B is ${b.label}.`;
    klann.keys.use({ a: () => listen("a"), b: () => listen("b"), x: () => listen("x") });
    next();
  }

  function next() {
    Object.assign(test, { x: blind.random(2) ? "A" : "B", heard: false, since: performance.now() });
    find("#abx-trial").textContent = `Trial ${test.trials.length + 1} of ${test.of}`;
    blind.cue(test.a); // stops: the next X must not be known from a switch out of this one
    show("a");
  }

  function show(name) {
    for (const one of ["a", "b", "x"]) find(`#abx-play-${one}`).setAttribute("aria-pressed", one === name);
    for (const one of ["a", "b"]) find(`#abx-is-${one}`).disabled = !test.heard;
  }

  function listen(name) {
    if (name === "x") test.heard = true;
    show(name);
    const played = name === "x" ? test.x.toLowerCase() : name;
    blind.play(test[played]);
  }

  function answer(letter) {
    const seconds = Math.round(performance.now() - test.since) / 1000;
    test.trials.push({ x: test.x, answer: letter, seconds });
    if (test.trials.length < test.of) {
      next();
      find("#abx-play-x").focus();
    } else finish();
  }

  function finish() {
    const { a, b, of, trials } = test;
    const correct = trials.filter(({ x, answer }) => x === answer).length;
    const p = chance(correct, of);
    const versions = { a: { key: a.key, label: a.label }, b: { key: b.key, label: b.label } };
    blind.finish(
      "abx",
      { ...versions, trials, correct, of, p },
      element("p", { class: "score", text: `${correct} of ${of} correct` }),
      element("p", {
        text: `By guessing one reaches this or more with a probability of p = ${p.toPrecision(2)} `
          + "(binomial, one-sided).",
      }),
      element("p", { text: `A: ${a.label}. B: ${b.label}.` }),
    );
  }

  for (const one of ["a", "b", "x"]) find(`#abx-play-${one}`).addEventListener("click", () => listen(one));
  for (const one of ["a", "b"]) {
    find(`#abx-is-${one}`).addEventListener("click", () => answer(one.toUpperCase()));
  }

  return { begin, chance };
})();
