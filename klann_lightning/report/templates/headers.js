"use strict";
/** The sample rate that a sound file says of itself: decoding tells only what it was resampled to. */
klann.rateOf = (() => {
  const MPEG = [44100, 48000, 32000]; // Hz, of version 1; version 2 has half of it, version 2.5 a quarter
  const SEARCHED = 65536; // bytes of an MPEG stream

  const text = (view, at, length) =>
    String.fromCharCode(...Array.from({ length }, (_, n) => view.getUint8(at + n)));

  function wav(view) {
    let at = 12;
    while (text(view, at, 4) !== "fmt ") at += 8 + view.getUint32(at + 4, true) + (view.getUint32(at + 4, true) % 2);
    return view.getUint32(at + 12, true);
  }

  function ogg(view) {
    const at = 27 + view.getUint8(26);
    if (text(view, at, 8) === "OpusHead") return 48000;
    return text(view, at + 1, 6) === "vorbis" ? view.getUint32(at + 12, true) : null;
  }

  /** The first frame of an MPEG stream, behind an ID3 tag. */
  function mpeg(view) {
    let at = 0;
    if (text(view, 0, 3) === "ID3") for (let n = 6, size = 0; n < 10; n += 1) at = 10 + (size = size * 128 + view.getUint8(n));
    for (const end = at + SEARCHED; at < end; at += 1) {
      const [version, layer] = [(view.getUint8(at + 1) >> 3) & 3, (view.getUint8(at + 1) >> 1) & 3];
      const [bits, rate] = [view.getUint8(at + 2) >> 4, (view.getUint8(at + 2) >> 2) & 3];
      const frame = view.getUint8(at) === 255 && view.getUint8(at + 1) >= 224;
      if (frame && version !== 1 && layer !== 0 && bits !== 15 && rate !== 3) return MPEG[rate] / [4, 0, 2, 1][version];
    }
    return null;
  }

  /** In Hz; null where it is not known. */
  return (bytes) => {
    const view = new DataView(bytes);
    try {
      const name = text(view, 0, 4);
      if (name === "RIFF" || name === "RF64") return wav(view);
      if (name === "fLaC") return (view.getUint16(18) << 4) | (view.getUint8(20) >> 4);
      if (name === "OggS") return ogg(view);
      return mpeg(view);
    } catch {
      return null; // it ends too early
    }
  };
})();
