"use strict";
/** What the page's scripts share: its content, files that are loaded as scripts, and news. */
const klann = (() => {
  const content = JSON.parse(document.getElementById("content").textContent);
  const takes = new Map(content.takes.map((take) => [take.key, take]));
  const news = new EventTarget();
  const awaited = new Map(); // path -> {promise, hand}

  /** Load `path`, a script that hands its content over in `sound`, `figure`, `model` or `runtime`. */
  function load(path) {
    if (awaited.has(path)) return awaited.get(path).promise;
    const script = document.createElement("script");
    let hand;
    const promise = new Promise((resolve, reject) => {
      const end = (settle) => (value) => {
        awaited.delete(path);
        script.remove();
        settle(value);
      };
      hand = end(resolve);
      const fail = end(reject);
      script.onload = () => fail(new Error(`${path} does not hold what its name says.`));
      script.onerror = () => fail(new Error(`${path} cannot be loaded. Is it still beside this page?`));
    });
    awaited.set(path, { promise, hand });
    script.src = path;
    document.head.append(script);
    return promise;
  }

  const soundPath = (key) => `audio/${key}.js`;
  const figurePath = (key) => `figures/${key}.js`;
  const modelPath = (key) => `models/${key}.js`;
  const RUNTIME = "page/klann.wasm.js";

  return {
    title: content.title,
    made: content.made,
    takes,
    models: content.models,
    loadSound: (key) => load(soundPath(key)),
    loadFigure: (key) => load(figurePath(key)),
    loadModel: (key) => load(modelPath(key)),
    loadRuntime: () => load(RUNTIME),
    sound: (key, coded) => awaited.get(soundPath(key))?.hand(coded),
    figure: (key, figure) => awaited.get(figurePath(key))?.hand(figure),
    model: (key, document) => awaited.get(modelPath(key))?.hand(document),
    runtime: (coded) => awaited.get(RUNTIME)?.hand(coded),

    /** News: "choice", "sound" (one is decoded), "play", "tick", "range", "theme", "fault"; "live" (of own files). */
    on: (name, hear) => news.addEventListener(name, (event) => hear(event.detail)),
    tell: (name, detail) => news.dispatchEvent(new CustomEvent(name, { detail })),

    /** An element with text (never markup) and attributes. */
    element(name, { text, ...attributes } = {}, ...children) {
      const made = document.createElement(name);
      if (text !== undefined) made.textContent = text;
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      made.append(...children);
      return made;
    },
    find: (selector) => document.querySelector(selector),
    all: (selector) => [...document.querySelectorAll(selector)],
    amplitude: (db) => 10 ** (db / 20),
    seconds: (value, digits = 1) => value.toFixed(digits),
  };
})();
