"use strict";
/** What is chosen (take, version, A and B, loop, residual, loudness), and its sounds. */
klann.deck = (() => {
  const MAX_RAISE_DB = 60;
  const firstTake = klann.takes.values().next().value;
  const choice = {
    take: firstTake,
    version: null,
    a: null,
    b: null,
    residual: false,
    match: false,
    loop: false,
    blind: false, // whether a blind test runs
    hidden: null, // the version that it plays in place of the chosen one
    range: null, // [from, to] in seconds: what the track chart shows, and the loop plays
  };
  let keptB = false; // whether the user has set slot B by hand
  let sounds = new Map(); // version's key -> AudioBuffer, of the current take alone
  let opened = null; // the take whose sounds these are
  let asked = 0; // counts commands: a sound that comes late must not replace a newer choice

  const shown = (take) => take.versions.filter((version) => version.kind !== "anchor");
  const target = (take) => take.versions.find((version) => version.kind === "target");
  const modelled = (version) => version.kind === "model" || version.kind === "extra";
  const last = (take, kind) => shown(take).findLast((version) => version.kind === kind);
  const lastModel = (take) => last(take, "model") ?? last(take, "extra") ?? shown(take).at(-1);
  const twin = (take, version) => version && shown(take).find((other) => other.label === version.label);

  function setTake(take) {
    const former = { ...choice };
    choice.take = take;
    choice.range = null;
    choice.a = twin(take, former.a) ?? target(take);
    choice.b = twin(take, former.b) ?? lastModel(take);
  }

  function setVersion(version) {
    choice.version = version;
    if (modelled(version) && !keptB && version !== choice.a) choice.b = version;
  }

  function open(take) {
    if (opened === take) return;
    klann.engine.open(take.sample_rate);
    sounds = new Map();
    opened = take;
  }

  /** The decoded sound of a version of the open take. */
  async function fetch(version) {
    if (sounds.has(version.key)) return sounds.get(version.key);
    const into = sounds;
    const coded = await klann.loadSound(version.key);
    let sound;
    try {
      sound = await klann.engine.decode(coded);
    } catch {
      throw new Error(`The browser cannot decode audio/${version.key}.flac (${version.label}).`);
    }
    into.set(version.key, sound);
    if (into === sounds) klann.tell("sound", version);
    return sound;
  }

  /** Load what else the take has, one after another, so that switching is immediate. */
  async function fetchRest(take) {
    for (const version of shown(take)) {
      if (opened !== take) return;
      await fetch(version).catch(() => {}); // it is told when the version is chosen
    }
  }

  const rms = (samples) => Math.sqrt(samples.reduce((sum, x) => sum + x * x, 0) / samples.length);
  const peak = (samples) => samples.reduce((most, x) => Math.max(most, Math.abs(x)), 0);

  /** Version minus target; with equal loudness as loud as the target; never so loud that it clips. */
  async function residualOf(version) {
    const [output, wanted] = [await fetch(version), await fetch(target(choice.take))];
    const expected = wanted.getChannelData(0);
    const difference = output.getChannelData(0).map((x, n) => x - expected[n]);
    const buffer = new AudioBuffer({ length: difference.length, sampleRate: output.sampleRate });
    buffer.copyToChannel(difference, 0);
    const most = peak(difference);
    const raise = choice.match ? Math.min(rms(expected) / rms(difference), klann.amplitude(MAX_RAISE_DB)) : 1;
    return [buffer, most > 0 ? Math.min(raise, 1 / most) : 1];
  }

  /** The buffer to play and its gain. */
  async function audible() {
    const version = choice.hidden ?? choice.version;
    if (choice.residual && !choice.hidden) return residualOf(version);
    return [await fetch(version), choice.match ? klann.amplitude(version.match_db) : 1];
  }

  function loopIn(samples) {
    if (!choice.loop) return null;
    const rate = choice.take.sample_rate;
    const [from, to] = choice.range ?? [0, samples / rate];
    return [Math.max(0, Math.round(from * rate)), Math.min(samples, Math.round(to * rate))];
  }

  /** Play what is chosen: from where it is, or from `seconds`. */
  async function play(seconds = null) {
    const mine = ++asked;
    const take = choice.take;
    try {
      open(take);
      klann.tell("fault", "");
      const [buffer, gain] = await audible();
      await klann.engine.ready();
      if (mine !== asked) return;
      const from = seconds === null ? null : Math.round(seconds * take.sample_rate);
      klann.engine.start(buffer, gain, { loop: loopIn(buffer.length), from });
      klann.tell("play");
      fetchRest(take);
    } catch (error) {
      if (mine === asked) klann.tell("fault", error.message);
    }
  }

  function pause() {
    asked += 1;
    klann.engine.stop();
    klann.tell("play");
  }

  /** Make a take and a version current, and play it. */
  function select(take, version) {
    if (take !== choice.take) {
      pause();
      setTake(take);
      klann.engine.rest = 0;
    }
    setVersion(version);
    klann.tell("choice");
    return play();
  }

  /** Change settings by name; what plays goes on with them. */
  function set(changes) {
    if ("b" in changes) keptB = true;
    Object.assign(choice, changes);
    klann.tell("choice");
    if ("range" in changes) klann.tell("range");
    if (klann.engine.playing) play();
  }

  function seek(seconds) {
    const to = Math.min(Math.max(0, seconds), choice.take.seconds);
    if (klann.engine.playing) return play(to);
    klann.engine.rest = Math.round(to * choice.take.sample_rate);
    klann.tell("tick");
  }

  if (firstTake) {
    setTake(firstTake);
    setVersion(target(firstTake));
  }

  return {
    choice,
    shown,
    target,
    modelled,
    lastModel,
    select,
    set,
    seek,
    play,
    pause,
    fetch,
    open,
    toggle: () => (klann.engine.playing ? pause() : play()),
    /** Slot "a" or "b". */
    slot: (name) => select(choice.take, choice[name]),
    swap: () => select(choice.take, choice.version === choice.a ? choice.b : choice.a),
    get seconds() {
      return klann.engine.place / choice.take.sample_rate;
    },
    /** Decoded samples of a version, or null where they are not there yet. */
    samples: (version) => (opened === choice.take && sounds.get(version.key)?.getChannelData(0)) || null,
  };
})();
