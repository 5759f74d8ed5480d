"use strict";
/** Single keys for all of listening. They rest where a control has the focus that needs the key itself. */
klann.keys = (() => {
  const { deck, find } = klann;
  const { choice } = deck;
  const on = find("#keys-on");
  let own = null; // a blind test's keys: they take the place of those that choose a version

  const flip = (setting) => () => deck.set({ [setting]: !choice[setting] });
  const transport = {
    " ": deck.toggle,
    ArrowLeft: () => deck.seek(deck.seconds - 1),
    ArrowRight: () => deck.seek(deck.seconds + 1),
    l: flip("loop"),
  };
  const choosing = {
    a: () => deck.slot("a"),
    b: () => deck.slot("b"),
    x: deck.swap,
    r: flip("residual"),
    m: flip("match"),
  };

  /** Version 1 to 9 of the take. */
  function number(key) {
    const version = /^[1-9]$/.test(key) && deck.shown(choice.take)[key - 1];
    return version && (() => deck.select(choice.take, version));
  }

  /** Whether the element with the focus does something of its own with this key. */
  function taken(element, key) {
    if (element.closest("select, textarea, input:not([type=range], [type=checkbox], [type=radio])")) return true;
    if (key === " ") return element.closest("button, input, a, summary, [tabindex='0']") !== null;
    if (key.startsWith("Arrow")) return element.closest("input, [tabindex='0']") !== null;
    return false;
  }

  document.addEventListener("keydown", (event) => {
    if (!on.checked || event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (taken(event.target, key)) return;
    const waits = find("#blind").open && !own; // the blind test's first and last step
    const act = transport[key] ?? (own ? own[key] : choosing[key] ?? number(key));
    if (!act || waits) return;
    event.preventDefault();
    act();
  });

  return {
    /** A blind test's keys, or null for those of the page. */
    use: (map) => {
      own = map;
    },
  };
})();
