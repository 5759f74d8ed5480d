"use strict";
/** A visitor's file, played live through a model: what is chosen, the worklet that plays it, and files made of it. */
klann.live = (() => {
  const LARGEST = 2 ** 29; // bytes of a file
  const MOST_CHANNELS = 2;
  const settings = { drive: 1, level: 1, wet: 1, loop: false }; // amplitudes; wet: 1 is the model, 0 the input
  const kept = new Map(); // what was loaded: a model's key -> its document, as bytes
  const loaded = new WeakSet(); // contexts that have the worklet
  let runtime = null; // WebAssembly, as bytes
  let model = klann.models[0]; // whose sample rate all is played at
  let oversampling = 1;
  let file = null;
  let sound = null; // {name, rate, sampleRate, channels, left, seconds}: the file, decoded
  let context = null;
  let output = null;
  let node = null; // a promise of the worklet's node
  let playing = false; // as chosen
  let begun = false; // whether the worklet has been told to
  let place = 0; // in samples
  let coming = null; // {file, share, goes}: what is being decoded, where it is to begin, and whether it then plays
  let turn = 0; // counts plays and pauses: what comes late must not replace a newer one
  let asked = 0; // counts what the worklet is told: its answers to earlier words do not count
  let nextAsk = 0;

  const tell = (news) => klann.tell("live", news);
  const bytesOf = (coded) => Uint8Array.from(atob(coded), (letter) => letter.charCodeAt(0));

  /** Throws where this browser, or the way the page came, allows no models. */
  function allow() {
    if (typeof WebAssembly === "undefined") {
      throw new Error("This browser has WebAssembly switched off, by which models are run. Switch it on, or try another browser.");
    }
    if (typeof AudioContext === "undefined" || !("audioWorklet" in AudioContext.prototype)) {
      throw new Error(
        isSecureContext
          ? "This browser has no AudioWorklet, by which models are heard. Try a newer one."
          : "Browsers play models only on pages from disk or by https, and this one came by http.",
      );
    }
  }

  async function decode(chosen, rate) {
    if (chosen.size > LARGEST) throw new Error(`${chosen.name} is larger than 512 MB. Cut it, and try again.`);
    const bytes = await chosen.arrayBuffer();
    const own = klann.rateOf(bytes);
    const decoder = new OfflineAudioContext(1, 1, rate);
    let buffer;
    try {
      buffer = await decoder.decodeAudioData(bytes);
    } catch {
      throw new Error(`${chosen.name} is no sound that this browser can decode. Try a WAV, FLAC or MP3 file.`);
    }
    if (!buffer.length) throw new Error(`${chosen.name} holds no samples.`);
    const count = Math.min(buffer.numberOfChannels, MOST_CHANNELS);
    const channels = Array.from({ length: count }, (_, channel) => buffer.getChannelData(channel));
    return {
      name: chosen.name,
      rate: own, // Hz, of the file; null where it is not known
      sampleRate: rate,
      channels: channels.map((samples) => samples.map((x) => (Number.isFinite(x) ? x : 0))),
      left: buffer.numberOfChannels - count, // channels that are not played
      seconds: buffer.length / rate,
    };
  }

  /** What the worklet needs of a model. */
  async function told(wanted) {
    const { key } = wanted;
    if (!kept.has(key)) kept.set(key, new TextEncoder().encode(JSON.stringify(await klann.loadModel(key))));
    return { key, bytes: kept.get(key), oversampling };
  }

  /** The worklet into a context, once: as a blob, or as data, the only way from disk in Chromium. */
  async function load(into) {
    if (loaded.has(into)) return;
    const text = `(${klann.worklet})();`;
    const type = "text/javascript";
    const blob = URL.createObjectURL(new Blob([text], { type }));
    try {
      if (location.protocol !== "file:") await into.audioWorklet.addModule(blob);
      else {
        const data = `data:${type},${encodeURIComponent(text)}`;
        await into.audioWorklet.addModule(data).catch(() => into.audioWorklet.addModule(blob));
      }
    } finally {
      URL.revokeObjectURL(blob);
    }
    loaded.add(into);
  }

  /** A worklet's node in this context, and a promise that it is ready. */
  async function build(into, of, more) {
    runtime ??= bytesOf(await klann.loadRuntime());
    const processorOptions = { ...settings, wasm: runtime, sound: of.channels, model: await told(model), ...more };
    await load(into);
    const outputChannelCount = [of.channels.length];
    const made = new AudioWorkletNode(into, "klann", { numberOfInputs: 0, outputChannelCount, processorOptions });
    const ready = new Promise((resolve, reject) => {
      made.onprocessorerror = () => reject(new Error("The browser has stopped the model."));
      made.port.onmessage = ({ data }) => {
        if (data.ready) resolve();
        else if (data.fault) reject(new Error(data.fault));
      };
    });
    return { made, ready };
  }

  /** The node that is heard, with the sound and the model of now. */
  async function connect() {
    const [into, end] = [context, output];
    const { made, ready } = await build(into, sound, { place, whole: false });
    await ready;
    made.onprocessorerror = () => fail(new Error("The browser has stopped the model."));
    made.port.onmessage = ({ data }) => (data.fault ? fail(new Error(data.fault)) : hear(data));
    if (into === context) made.connect(end); // else another rate was chosen meanwhile
    return made;
  }

  function openContext() {
    if (context) return;
    context = new AudioContext({ sampleRate: sound.sampleRate });
    output = new GainNode(context);
    output.connect(context.destination);
  }

  function post(message) {
    node?.then((made) => made.port.postMessage(message), () => {});
  }

  /** Forget the node, and the context where its rate is another. */
  function close(rate) {
    const former = node;
    node = null;
    former?.then((made) => {
      made.port.postMessage({ close: true });
      made.disconnect();
    }, () => {});
    if (context && context.sampleRate !== rate) {
      context.close();
      context = null;
    }
  }

  function fail(error) {
    turn += 1;
    playing = false;
    close(sound?.sampleRate);
    tell({ fault: error.message });
  }

  /** The worklet's answer. */
  function hear({ asked: of, playing: goes, running, peak, place: at }) {
    if (of !== asked) return;
    if (playing && begun) {
      place = goes ? at : 0;
      playing = goes;
    }
    tell({ peak: running ? peak : 0, running });
    if (!running) return;
    cancelAnimationFrame(nextAsk);
    nextAsk = requestAnimationFrame(ask);
  }

  const ask = () => post({ ask: asked });

  function command(message) {
    asked += 1;
    post({ ...message, ask: asked });
  }

  /** Only after a gesture of the user's. */
  async function play() {
    if (coming) {
      coming.goes = true;
      return;
    }
    const mine = ++turn;
    try {
      openContext();
      [playing, begun] = [true, false];
      tell({ fault: "" });
      node ??= connect();
      await node;
      await context.resume();
      if (mine !== turn) return;
      begun = true;
      command({ play: true });
    } catch (error) {
      if (mine === turn) fail(error);
    }
  }

  function pause() {
    if (coming) coming.goes = false;
    if (!playing) return;
    turn += 1;
    playing = false;
    command({ pause: true });
    tell({});
  }

  function seek(seconds) {
    place = Math.round(Math.min(Math.max(0, seconds), sound.seconds) * sound.sampleRate);
    command(playing ? { place } : { pause: true, place });
    tell({});
  }

  /** Decode a file at the model's rate, and go on with it. */
  async function take(wanted) {
    pause();
    coming = wanted;
    const rate = model.sample_rate;
    try {
      allow();
      const decoded = await decode(wanted.file, rate);
      if (coming !== wanted) return;
      close(rate);
      [file, sound, coming] = [wanted.file, decoded, null];
      place = Math.round(wanted.share * sound.channels[0].length);
      tell({ fault: "" });
      if (wanted.goes) await play();
    } catch (error) {
      if (coming !== wanted) return;
      coming = null;
      tell({ fault: error.message });
    }
  }

  /** Make a model current; what plays goes on with it. */
  async function choose(wanted, times) {
    [model, oversampling] = [wanted, times];
    if (coming) return take({ ...coming });
    if (!sound) return;
    if (sound.sampleRate !== model.sample_rate) {
      return take({ file, share: place / sound.channels[0].length, goes: playing });
    }
    try {
      const next = await told(wanted);
      if (wanted === model && times === oversampling) command({ model: next });
    } catch (error) {
      tell({ fault: error.message });
    }
  }

  function set(changes) {
    Object.assign(settings, changes);
    command(changes);
  }

  /** All of the file through the model, as a wav file, and how many times real time that went. */
  async function render() {
    if (coming) throw new Error("The file is being decoded for this model's sample rate. Try again in a moment.");
    const of = sound;
    const frames = of.channels[0].length;
    const offline = new OfflineAudioContext(of.channels.length, frames, of.sampleRate);
    const { made, ready } = await build(offline, of, { place: 0, wet: 1, loop: false, whole: true });
    made.connect(offline.destination);
    const began = performance.now();
    const [rendered] = await Promise.all([offline.startRendering(), ready]);
    const seconds = (performance.now() - began) / 1000;
    const channels = of.channels.map((_, channel) => rendered.getChannelData(channel));
    return { wav: klann.wav(channels, of.sampleRate), seconds };
  }

  return {
    settings,
    take: (chosen) => take({ file: chosen, share: 0, goes: false }),
    choose,
    set,
    play,
    pause,
    seek,
    render,
    get model() {
      return model;
    },
    get sound() {
      return sound;
    },
    get playing() {
      return playing;
    },
    get seconds() {
      return sound ? place / sound.sampleRate : 0;
    },
    get context() {
      return context;
    },
    get output() {
      return output;
    },
  };
})();
