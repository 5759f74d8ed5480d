"use strict";
/** The sample rate that a sound file says of itself: decoding tells only what it was resampled to. */
klann.rateOf = (() => {
  const MPEG = [44100, 48000, 32000]; // Hz, of version 1; version 2 has half of it, version 2.5 a quarter
  const KBITS = {
    // of a frame, by version 1 or not and layer: I, II, III
    1: [[32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448], [32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384], [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320]],
    2: [[32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256], [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160], [8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160]],
  };
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

  /** Rate in Hz and length in bytes of the MPEG frame that begins there, if one does. */
  function frame(view, at) {
    const [first, second, third] = [view.getUint8(at), view.getUint8(at + 1), view.getUint8(at + 2)];
    const [version, layer] = [(second >> 3) & 3, 3 - ((second >> 1) & 3)];
    const [bits, place] = [third >> 4, (third >> 2) & 3];
    if (first !== 255 || second < 224 || version === 1 || layer === 3 || bits % 15 === 0 || place === 3) return null;
    const rate = MPEG[place] / [4, 0, 2, 1][version];
    const kbits = KBITS[version === 3 ? 1 : 2][layer][bits - 1];
    const slots = layer === 0 ? 12 : layer === 2 && version !== 3 ? 72 : 144;
    const length = Math.floor((slots * 1000 * kbits) / rate) + ((third >> 1) & 1);
    return { rate, length: layer === 0 ? 4 * length : length };
  }

  /** Of the first frame of an MPEG stream, behind an ID3 tag, that another one of its rate follows. */
  function mpeg(view) {
    let at = 0;
    if (text(view, 0, 3) === "ID3") for (let n = 6, size = 0; n < 10; n += 1) at = 10 + (size = size * 128 + view.getUint8(n));
    for (const end = at + SEARCHED; at < end; at += 1) {
      const found = frame(view, at);
      if (found && frame(view, at + found.length)?.rate === found.rate) return found.rate;
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
