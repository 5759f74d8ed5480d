"use strict";
/** A wav file of 32-bit floats from channels [T] each. */
klann.wav = (channels, sampleRate) => {
  const [count, frames] = [channels.length, channels[0].length];
  const HEADER = 58; // bytes
  const size = 4 * count * frames;
  const bytes = new ArrayBuffer(HEADER + size);
  const view = new DataView(bytes);
  let at = 0;
  const name = (letters) => [...letters].forEach((letter) => view.setUint8(at++, letter.charCodeAt(0)));
  const number = (value, width) => {
    if (width === 4) view.setUint32(at, value, true);
    else view.setUint16(at, value, true);
    at += width;
  };
  const numbers = (width, ...values) => values.forEach((value) => number(value, width));
  name("RIFF");
  numbers(4, HEADER - 8 + size);
  name("WAVEfmt ");
  numbers(4, 18);
  numbers(2, 3, count); // floats
  numbers(4, sampleRate, 4 * count * sampleRate);
  numbers(2, 4 * count, 32, 0);
  name("fact");
  numbers(4, 4, frames);
  name("data");
  numbers(4, size);
  for (let t = 0; t < frames; t += 1) {
    for (const channel of channels) {
      view.setFloat32(at, channel[t], true);
      at += 4;
    }
  }
  return new Blob([bytes], { type: "audio/wav" });
};
