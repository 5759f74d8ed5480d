"use strict";
/**
 * Plays a visitor's file through a model, where sound is made: an AudioWorklet loads this function's text, and
 * shares nothing with the page. Every change takes 10 ms, so that it makes no click. `process` allocates nothing.
 */
klann.worklet = () => {
  const BLOCK = 128; // frames; klann_wasm.cpp has room for as many
  const FADE = 0.01; // seconds
  const WARM = 1; // seconds before the place, which a model that comes in has heard: filters remember
  const CATCH = 6; // blocks of them at a time
  const TAIL = 5; // seconds that are played on behind the end
  const PAST = 8192; // frames of the input that are kept for a model's latency; a power of 2

  let module = null; // compiled once

  function start(bytes) {
    module ??= new WebAssembly.Module(bytes);
    const refuse = () => 8; // there are no files
    const wasi = { fd_close: refuse, fd_seek: refuse, fd_write: refuse };
    const { exports } = new WebAssembly.Instance(module, { wasi_snapshot_preview1: wasi });
    exports._initialize();
    return exports;
  }

  /** A number that goes to another one within 10 ms. */
  class Glide {
    constructor(value) {
      this.values = new Float32Array(BLOCK); // of this block
      this.set(value);
    }

    set(value) {
      this.value = this.goal = value;
      this.step = 0;
      this.values.fill(value);
    }

    to(goal) {
      if (goal === this.goal) return;
      this.goal = goal;
      this.step = (goal - this.value) / Math.ceil(FADE * sampleRate);
    }

    get rests() {
      return this.value === this.goal;
    }

    advance(frames) {
      for (let t = 0; t < frames; t += 1) {
        if (this.value !== this.goal) {
          this.value += this.step;
          if ((this.goal - this.value) * this.step <= 0) this.value = this.goal;
        }
        this.values[t] = this.value;
      }
    }
  }

  /** A model in the runtime; `rows` hold a block of each channel, which it plays in place. */
  class Model {
    constructor(runtime, { bytes, oversampling }, channels) {
      this.runtime = runtime;
      this.player = runtime.make(bytes.length);
      new Uint8Array(runtime.memory.buffer, runtime.text(this.player), bytes.length).set(bytes);
      const fault = this.words(runtime.open(this.player, channels, sampleRate, oversampling));
      if (fault) throw new Error(`The model cannot be read: ${fault}.`);
      this.latency = runtime.latency(this.player); // frames
      if (this.latency > PAST - BLOCK) throw new Error("The model looks too far ahead.");
      this.places = Array.from({ length: channels }, (_, channel) => runtime.row(this.player, channel));
      this.find();
    }

    words(place) {
      const bytes = new Uint8Array(this.runtime.memory.buffer, place);
      return String.fromCharCode(...bytes.subarray(0, bytes.indexOf(0)));
    }

    /** Memory that has grown is another one. */
    find() {
      this.rows = this.places.map((place) => new Float32Array(this.runtime.memory.buffer, place, BLOCK));
    }

    play(frames) {
      this.runtime.process(this.player, frames);
    }

    reset() {
      this.runtime.reset(this.player);
    }
  }

  class Live extends AudioWorkletProcessor {
    constructor({ processorOptions: { wasm, sound, model, place, drive, level, wet, loop, whole } }) {
      super();
      this.sound = sound; // [T] of each channel
      this.length = sound[0].length;
      this.loop = loop;
      this.place = place; // the sample that comes next; behind the end it counts on
      this.former = 0; // the place that fades out after a jump
      this.wanted = -1; // the place to jump to next
      this.jump = new Glide(1);
      this.drive = new Glide(drive);
      this.level = new Glide(level);
      this.wet = new Glide(wet);
      this.gate = new Glide(whole ? 1 : 0);
      this.running = whole;
      this.closed = false;
      this.input = sound.map(() => new Float32Array(BLOCK));
      this.past = sound.map(() => new Float32Array(PAST));
      this.written = 0; // into `past`
      this.models = new Map();
      this.current = this.leaving = this.coming = null;
      this.fade = new Glide(1); // from the leaving to the current one
      this.heard = -1; // by the coming one: the place that it has come to, once it has begun
      this.glides = [this.level, this.wet, this.gate, this.fade];
      this.peak = 0; // since it was asked for
      this.port.onmessage = ({ data }) => this.obey(data);
      this.attempt(() => {
        this.runtime = start(wasm);
        this.current = this.model(model);
        if (whole) this.skip(this.current.latency);
        this.port.postMessage({ ready: true });
      });
    }

    attempt(act) {
      try {
        act();
      } catch (error) {
        this.port.postMessage({ fault: error.message });
      }
    }

    model(told) {
      const name = `${told.key} ${told.oversampling}`;
      if (!this.models.has(name)) this.models.set(name, new Model(this.runtime, told, this.sound.length));
      for (const known of this.models.values()) known.find();
      return this.models.get(name);
    }

    obey(told) {
      if ("model" in told) this.attempt(() => this.choose(this.model(told.model)));
      for (const name of ["drive", "level", "wet"]) if (name in told) this[name].to(told[name]);
      if ("loop" in told) this.loop = told.loop;
      if ("place" in told) this.go(told.place);
      if ("play" in told) this.play();
      if ("pause" in told) this.gate.to(0);
      if ("close" in told) this.closed = true;
      if ("ask" in told) this.answer(told.ask);
    }

    answer(asked) {
      const place = Math.min(this.place, this.length);
      const playing = this.running && this.gate.goal === 1 && (this.place < this.length || this.wanted >= 0);
      const { running, peak } = this;
      this.port.postMessage({ asked, place, playing, running, peak });
      this.peak = 0;
    }

    play() {
      if (this.place >= this.length && this.wanted < 0) this.go(0);
      if (!this.running && this.place === 0) this.current.reset();
      this.running = true;
      this.gate.to(1);
    }

    /** Silent from here on, where it is, or was to go. */
    rest() {
      this.running = false;
      if (this.wanted >= 0) this.go(this.wanted);
    }

    go(place) {
      this.wanted = this.running ? place : -1;
      if (!this.running) this.place = place;
    }

    choose(model) {
      if (model === this.coming) return;
      this.coming = model === this.current ? null : model;
      this.heard = -1;
    }

    /** Feed the coming model what came before the place; then it comes in. */
    change() {
      if (this.fade.rests) this.leaving = null;
      if (!this.coming || this.leaving) return;
      if (this.heard < 0) this.coming.reset();
      this.heard = Math.max(0, this.heard, this.place - WARM * sampleRate);
      for (let block = 0; block < CATCH && this.heard < this.place; block += 1) {
        const frames = Math.min(BLOCK, this.place - this.heard);
        for (let c = 0; c < this.sound.length; c += 1) {
          for (let t = 0; t < frames; t += 1) {
            this.coming.rows[c][t] = this.drive.value * this.sample(this.sound[c], this.heard + t);
          }
        }
        this.coming.play(frames);
        this.heard += frames;
      }
      if (this.heard < this.place) return;
      this.leaving = this.running ? this.current : null;
      this.current = this.coming;
      this.coming = null;
      this.fade.set(this.running ? 0 : 1);
      this.fade.to(1);
    }

    sample(channel, place) {
      return place < this.length ? channel[place] : 0;
    }

    next(place) {
      return place + 1 === this.length && this.loop ? 0 : place + 1;
    }

    /** The sound's next block, into `input` and `past`. */
    read(frames) {
      if (this.wanted >= 0 && this.jump.rests) {
        this.former = this.place;
        this.place = this.wanted;
        this.wanted = -1;
        this.jump.set(0);
        this.jump.to(1);
      }
      this.jump.advance(frames);
      for (let t = 0; t < frames; t += 1) {
        const share = this.jump.values[t];
        for (let c = 0; c < this.sound.length; c += 1) {
          let x = this.sample(this.sound[c], this.place);
          if (share < 1) x = share * x + (1 - share) * this.sample(this.sound[c], this.former);
          this.input[c][t] = this.past[c][(this.written + t) % PAST] = x;
        }
        this.place = this.next(this.place);
        this.former = this.next(this.former);
      }
      this.written = (this.written + frames) % PAST;
    }

    feed(model, frames) {
      for (let c = 0; c < this.sound.length; c += 1) {
        for (let t = 0; t < frames; t += 1) model.rows[c][t] = this.drive.values[t] * this.input[c][t];
      }
      model.play(frames);
    }

    advance(frames) {
      this.read(frames);
      this.drive.advance(frames);
      this.feed(this.current, frames);
      if (this.leaving) this.feed(this.leaving, frames);
    }

    /** What a whole file's first samples come out behind. */
    skip(frames) {
      for (let left = frames; left > 0; left -= BLOCK) this.advance(Math.min(BLOCK, left));
    }

    /** A model's input, as much later as its output. */
    plain(model, channel, frames, t) {
      return this.past[channel][(this.written + PAST - frames + t - model.latency) % PAST];
    }

    put(output, frames) {
      for (let g = 0; g < this.glides.length; g += 1) this.glides[g].advance(frames);
      for (let c = 0; c < output.length; c += 1) {
        for (let t = 0; t < frames; t += 1) {
          let played = this.current.rows[c][t];
          let plain = this.plain(this.current, c, frames, t);
          if (this.leaving) {
            const share = this.fade.values[t];
            played = share * played + (1 - share) * this.leaving.rows[c][t];
            plain = share * plain + (1 - share) * this.plain(this.leaving, c, frames, t);
          }
          const wet = this.wet.values[t];
          const y = (wet * played + (1 - wet) * plain) * this.level.values[t] * this.gate.values[t];
          output[c][t] = y;
          if (Math.abs(y) > this.peak) this.peak = Math.abs(y);
        }
      }
    }

    process(_, outputs) {
      const output = outputs[0];
      if (this.closed || !this.current) return false;
      this.change();
      if (!this.running) return true;
      const frames = output[0].length;
      this.advance(frames);
      this.put(output, frames);
      if (this.place >= this.length + TAIL * sampleRate) this.gate.to(0);
      if (this.gate.goal === 0 && this.gate.rests) this.rest();
      return true;
    }
  }

  registerProcessor("klann", Live);
};
