"use strict";
/**
 * One sound at a time, to the sample. Every change (another sound, level, place or loop) starts a new voice
 * at a whole sample of the audio clock and crossfades from the former: no click, and the place is kept.
 */
klann.engine = (() => {
  const FADE = 0.01; // seconds
  const LEAD = 0.03; // seconds from a command until it is heard: the clock read here is a few blocks old
  let context = null;
  let output = null;
  let rate = 0;
  let voice = null; // what sounds
  let rest = 0; // the sample at which a stopped player stands
  let volume = 1;

  /** A context at this rate (Hz), so that nothing is resampled. Only after a gesture of the user's. */
  function open(sampleRate) {
    stop();
    if (rate === sampleRate) return;
    context?.close();
    context = new AudioContext({ sampleRate });
    rate = sampleRate;
    output = new GainNode(context, { gain: volume });
    output.connect(context.destination);
  }

  /** A browser may hold a new context back until it is asked again. */
  const ready = () => (context.state === "suspended" ? context.resume() : null);

  async function decode(coded) {
    const bytes = Uint8Array.from(atob(coded), (letter) => letter.charCodeAt(0));
    return context.decodeAudioData(bytes.buffer);
  }

  /** Whether this sample's time, in seconds, gives the sample again: else a browser interpolates. */
  const exact = (sample) => (sample / rate) * rate === sample;

  function exactFrom(sample, step) {
    while (!exact(sample)) sample += step;
    return sample;
  }

  /** The sample of the sound that is heard at this sample of the audio clock. */
  function placeAt(clock) {
    if (!voice) return rest;
    const place = voice.offset + Math.max(0, clock - voice.start);
    if (!voice.loop) return Math.min(place, voice.length);
    const [from, to] = voice.loop;
    return place < to ? place : from + ((place - from) % (to - from));
  }

  function fade(node, start, from, to) {
    node.gain.setValueAtTime(from, start / rate);
    node.gain.linearRampToValueAtTime(to, start / rate + FADE);
  }

  /** Play `buffer` at `gain`, going on where the former sound is, or from sample `from`; `loop` in samples. */
  function start(buffer, gain, { loop = null, from = null } = {}) {
    loop = loop && [exactFrom(loop[0], -1), exactFrom(loop[1], -1)];
    const inside = (place) => (loop && (place < loop[0] || place >= loop[1]) ? loop[0] : place);
    const offsetAt = (clock) => inside(from ?? placeAt(clock));
    let clock = Math.ceil((context.currentTime + LEAD) * rate);
    if (from !== null || !voice) rest = from = exactFrom(offsetAt(clock), -1);
    while (!exact(clock) || !exact(offsetAt(clock))) clock += 1;
    const offset = offsetAt(clock);
    silence(clock);
    begin(buffer, gain, clock, offset, loop);
  }

  /** Two nodes fade in and out, so that a switch in the middle of another makes no step. */
  function begin(buffer, gain, clock, offset, loop) {
    const source = new AudioBufferSourceNode(context, { buffer });
    const level = new GainNode(context, { gain });
    const rise = new GainNode(context, { gain: 0 });
    const fall = new GainNode(context);
    source.connect(level).connect(rise).connect(fall).connect(output);
    fade(rise, clock, 0, 1);
    const mine = { source, fall, start: clock, offset, loop, length: buffer.length };
    if (loop) {
      Object.assign(source, { loop: true, loopStart: loop[0] / rate, loopEnd: loop[1] / rate });
    } else {
      const end = clock + buffer.length - offset;
      fade(level, Math.max(clock, end - FADE * rate), gain, 0);
    }
    source.onended = () => {
      fall.disconnect();
      if (voice !== mine) return;
      voice = null;
      rest = 0;
      klann.tell("play");
    };
    source.start(clock / rate, offset / rate);
    voice = mine;
  }

  function silence(clock) {
    if (!voice) return;
    fade(voice.fall, clock, 1, 0);
    voice.source.stop(clock / rate + FADE);
    voice = null;
  }

  function stop() {
    if (!voice) return;
    const clock = Math.ceil((context.currentTime + LEAD) * rate);
    rest = placeAt(clock);
    silence(clock);
  }

  return {
    open,
    ready,
    decode,
    start,
    stop,
    /** Where a stopped player is to go on, in samples. */
    set rest(sample) {
      rest = sample;
    },
    set volume(value) {
      volume = value;
      output?.gain.setTargetAtTime(value, context.currentTime, FADE);
    },
    get playing() {
      return voice !== null;
    },
    /** The sample that is heard now. */
    get place() {
      return voice ? placeAt(context.currentTime * rate) : rest;
    },
    get context() {
      return context;
    },
    get output() {
      return output;
    },
  };
})();
