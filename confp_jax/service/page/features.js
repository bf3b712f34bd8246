// What the model hears of a clip: the same numbers as confp_jax/audio/{mel,contrast}.py and
// confp_jax/fingerprint/{windows,clip_encoder}.py compute. No page is needed, only arrays.

const TINY = 1e-20; // keeps digital silence finite

// Python's round: halves to the even neighbour.
export function round(value) {
  const lower = Math.floor(value);
  if (value - lower !== 0.5) return Math.round(value);
  return lower % 2 === 0 ? lower : lower + 1;
}

function toMel(hz, scale) {
  if (scale === "htk") return 2595 * Math.log10(1 + hz / 700);
  return hz < 1000 ? (hz * 3) / 200 : 15 + (27 * Math.log(hz / 1000)) / Math.log(6.4);
}

function toHz(mel, scale) {
  if (scale === "htk") return 700 * (10 ** (mel / 2595) - 1);
  return mel < 15 ? (mel * 200) / 3 : 1000 * Math.exp(((mel - 15) * Math.log(6.4)) / 27);
}

// Triangles of unit area over the bins of an FFT: of each its first bin, and its weights from there.
export function melFilters(mel, rateHz) {
  const [low, high] = [toMel(mel.fmin_hz, mel.scale), toMel(mel.fmax_hz, mel.scale)];
  const edges = Array.from({ length: mel.num_mels + 2 }, (_, i) => toHz(low + ((high - low) * i) / (mel.num_mels + 1), mel.scale));
  const binHz = rateHz / mel.fft_samples;
  return Array.from({ length: mel.num_mels }, (_, i) => {
    const [begin, top, end] = edges.slice(i, i + 3);
    const first = Math.floor(begin / binHz) + 1;
    const last = Math.min(Math.ceil(end / binHz) - 1, mel.fft_samples / 2);
    const weights = new Float32Array(Math.max(0, last - first + 1));
    for (let bin = first; bin <= last; bin++) {
      const hz = bin * binHz;
      const height = Math.min((hz - begin) / (top - begin), (end - hz) / (end - top));
      weights[bin - first] = (Math.max(0, height) * 2) / (end - begin);
    }
    return { first, weights };
  });
}

// The power spectrum of real frames of `size` samples (a power of two), by a complex FFT of half the size.
class PowerSpectrum {
  constructor(size) {
    const half = (this.half = size / 2);
    this.real = new Float64Array(half);
    this.imag = new Float64Array(half);
    this.power = new Float64Array(half + 1);
    this.cos = Float64Array.from({ length: half }, (_, i) => Math.cos((2 * Math.PI * i) / size));
    this.sin = Float64Array.from({ length: half }, (_, i) => Math.sin((2 * Math.PI * i) / size));
    this.window = Float32Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
    const bits = Math.log2(half);
    this.swapped = Uint32Array.from({ length: half }, (_, i) => {
      let place = 0;
      for (let bit = 0; bit < bits; bit++) place |= ((i >> bit) & 1) << (bits - 1 - bit);
      return place;
    });
  }

  // Of the frame that begins at `first`; the array is used again.
  of(samples, first) {
    const { half, real, imag, window, swapped } = this;
    for (let i = 0; i < half; i++) {
      const at = swapped[i];
      real[at] = samples[first + 2 * i] * window[2 * i];
      imag[at] = samples[first + 2 * i + 1] * window[2 * i + 1];
    }
    this.#transform();
    return this.#unpacked();
  }

  #transform() {
    const { half, real, imag, cos, sin } = this;
    for (let length = 2; length <= half; length *= 2) {
      const step = (2 * half) / length;
      for (let begin = 0; begin < half; begin += length) {
        for (let i = 0; i < length / 2; i++) {
          const [a, b, turn] = [begin + i, begin + i + length / 2, i * step];
          const re = real[b] * cos[turn] + imag[b] * sin[turn];
          const im = imag[b] * cos[turn] - real[b] * sin[turn];
          real[b] = real[a] - re;
          imag[b] = imag[a] - im;
          real[a] += re;
          imag[a] += im;
        }
      }
    }
  }

  // Even and odd samples were transformed as real and imaginary parts: takes them apart.
  #unpacked() {
    const { half, real, imag, cos, sin, power } = this;
    power[0] = (real[0] + imag[0]) ** 2;
    power[half] = (real[0] - imag[0]) ** 2;
    for (let k = 1; k < half; k++) {
      const other = half - k;
      const evenRe = (real[k] + real[other]) / 2;
      const evenIm = (imag[k] - imag[other]) / 2;
      const oddRe = (imag[k] + imag[other]) / 2;
      const oddIm = (real[other] - real[k]) / 2;
      const re = evenRe + oddRe * cos[k] + oddIm * sin[k];
      const im = evenIm + oddIm * cos[k] - oddRe * sin[k];
      power[k] = re * re + im * im;
    }
    return power;
  }
}

// Mel power [frames, bands] of the frames that lie wholly inside, the first at `offset`.
export function melPower(samples, mel, rateHz, { offset = 0, tempo = 1 } = {}) {
  const hop = round(tempo * mel.hop_samples);
  const num = Math.max(0, Math.floor((samples.length - offset - mel.fft_samples) / hop) + 1);
  const filters = melFilters(mel, rateHz);
  const spectrum = new PowerSpectrum(mel.fft_samples);
  const found = new Float32Array(num * mel.num_mels);
  for (let frame = 0; frame < num; frame++) {
    const power = spectrum.of(samples, offset + frame * hop);
    filters.forEach(({ first, weights }, band) => {
      let sum = 0;
      for (let i = 0; i < weights.length; i++) sum += weights[i] * power[first + i];
      found[frame * mel.num_mels + band] = sum;
    });
  }
  return found;
}

// The mean of `size` neighbours along an axis of [rows, columns], of those there are.
function runningMean(values, rows, columns, size, isAlongRows) {
  const found = new Float32Array(values.length);
  const [length, stride, lines, next] = isAlongRows ? [rows, columns, columns, 1] : [columns, 1, rows, columns];
  const sums = new Float64Array(length + 1);
  const [before, after] = [size >> 1, (size + 1) >> 1];
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < length; i++) sums[i + 1] = sums[i] + values[line * next + i * stride];
    for (let i = 0; i < length; i++) {
      const [first, last] = [Math.max(i - before, 0), Math.min(i + after, length)];
      found[line * next + i * stride] = (sums[last] - sums[first]) / (last - first);
    }
  }
  return found;
}

function boxMean(values, rows, columns, { box_frames, box_mels }) {
  return runningMean(runningMean(values, rows, columns, box_frames, true), rows, columns, box_mels, false);
}

// Local contrast [frames, bands] of mel power.
export function localContrast(power, mel, contrast) {
  const columns = mel.num_mels;
  const rows = power.length / columns;
  const loudness = Float32Array.from({ length: rows }, (_, row) => power.subarray(row * columns, (row + 1) * columns).reduce((sum, x) => sum + x, 0) / columns);
  const floors = runningMean(loudness, rows, 1, contrast.box_frames, true);
  const logarithm = power.map((x, i) => Math.log(x + mel.floor * floors[Math.floor(i / columns)] + TINY));
  const means = boxMean(logarithm, rows, columns, contrast);
  const deviation = logarithm.map((x, i) => x - means[i]);
  const variance = boxMean(deviation.map((x) => x * x), rows, columns, contrast);
  return deviation.map((x, i) =>
    Math.exp(contrast.sharpness * Math.min(x / Math.sqrt(variance[i] + contrast.least_variance), contrast.highest)),
  );
}

// Local contrast of a clip: a frame in the middle of every whole hop, and silence beyond its ends.
export function clipContrast(samples, projection, rateHz) {
  const { mel } = projection;
  const before = Math.max(0, Math.floor((mel.fft_samples - mel.hop_samples) / 2));
  const num = Math.floor(samples.length / mel.hop_samples);
  const padded = new Float32Array(Math.max(samples.length + before, (num - 1) * mel.hop_samples + mel.fft_samples));
  padded.set(samples, before);
  const power = melPower(padded, mel, rateHz);
  return localContrast(power.subarray(0, num * mel.num_mels), mel, projection.contrast);
}

// Where each window begins that a clip fills; below 0 where the clip is shorter than a window.
function firstSamples(numSamples, segment, hop) {
  if (numSamples >= segment) return Array.from({ length: 1 + Math.floor((numSamples - segment) / hop) }, (_, i) => i * hop);
  const unseen = segment - numSamples;
  const num = 1 + Math.floor(unseen / hop);
  return Array.from({ length: num }, (_, i) => -Math.floor((unseen + hop * (num - 1 - 2 * i)) / 2));
}

function isLoud(samples, begin, length, silentRms) {
  let energy = 0;
  for (let i = begin; i < begin + length; i++) energy += samples[i] * samples[i];
  return Math.sqrt(energy / length) > silentRms;
}

// A clip cut into segments: where each begins, and what the conformer hears of the clip for it.
function cut(samples, model, tempo) {
  const { audio } = model.config;
  const segment = round(audio.segment_s * audio.sample_rate_hz);
  const context = round((audio.context_s || audio.segment_s) * audio.sample_rate_hz);
  const heard = Math.trunc(samples.length / tempo);
  return firstSamples(heard, segment, round(model.hop_s * audio.sample_rate_hz)).map((begin) => {
    const [own, around] = [Math.max(begin, 0), begin - Math.floor((context - segment) / 2)];
    const length = Math.min(begin + segment, heard) - own;
    return {
      begin,
      loud: isLoud(samples, Math.trunc(tempo * own), Math.trunc(tempo * length), model.silent_rms),
      start: Math.max(around, 0),
      place: Math.max(-around, 0),
      length: Math.min(around + context, heard) - Math.max(around, 0),
    };
  });
}

// Segments of contrast, of which `fill` writes one; silent ones and those beyond the end are left out.
function projected(samples, windows, model) {
  const { audio, encoder } = model.config;
  const { mel, num_frames: frames, query_phases: phases } = encoder.projection;
  const contrast = clipContrast(samples, encoder.projection, audio.sample_rate_hz);
  const inputs = [];
  for (let phase = 0; phase < phases; phase++) {
    const shift = round(((phase * model.hop_s) / phases) * audio.sample_rate_hz);
    windows.forEach(({ begin, loud }, window) => {
      const from = round((begin + shift) / mel.hop_samples) * mel.num_mels;
      const to = from + frames * mel.num_mels;
      if (loud && from >= 0 && to <= contrast.length) {
        inputs.push({ row: phase * windows.length + window, fill: (into) => into.set(contrast.subarray(from, to)) });
      }
    });
  }
  return inputs;
}

// Windows of mel power, whose vectors are rows from `first` on; `fill` writes one, and returns its first frame with audio and the one after the last.
function conformed(samples, windows, model, tempo, first) {
  const { audio, mel } = model.config;
  const numFrames = (length) => 1 + Math.floor((length - mel.fft_samples) / mel.hop_samples);
  const total = numFrames(round((audio.context_s || audio.segment_s) * audio.sample_rate_hz));
  const powers = new Map();
  const power = (phase) => {
    if (!powers.has(phase)) powers.set(phase, melPower(samples, mel, audio.sample_rate_hz, { offset: round(tempo * phase), tempo }));
    return powers.get(phase);
  };
  return windows.flatMap(({ start, place, length, loud }, window) => {
    const fill = (into) => {
      const seen = numFrames(length);
      const begin = Math.min(round(place / mel.hop_samples), total - seen);
      const from = Math.floor(start / mel.hop_samples) * mel.num_mels;
      into.fill(1);
      into.set(power(start % mel.hop_samples).subarray(from, from + seen * mel.num_mels), begin * mel.num_mels);
      return [begin, begin + seen];
    };
    return loud ? [{ row: first + window, fill }] : [];
  });
}

// What the model must be given for a query, each with the place of its vector among the rows that the
// service wants: the projection's segments, phase after phase; the conformer's; and, for a short clip,
// those of the clip played faster. `model` is what the service's v1/model says.
export function queryInputs(clip, model) {
  const peak = clip.reduce((most, x) => Math.max(most, Math.abs(x)), 1);
  const samples = peak > 1 ? clip.map((x) => x / peak) : clip; // louder than full scale would overflow
  const own = cut(samples, model, 1);
  const faster = samples.length < model.sped_up_below_samples ? cut(samples, model, model.speedup) : [];
  const numProjected = model.config.encoder.projection.query_phases * own.length;
  const numOwn = numProjected + own.length;
  const power = [...conformed(samples, own, model, 1, numProjected), ...conformed(samples, faster, model, model.speedup, numOwn)];
  return { numRows: numOwn + faster.length, contrast: projected(samples, own, model), power };
}

// A vector as bytes: its greatest value becomes 127. Only its direction counts.
export function packed(vector) {
  const most = vector.reduce((found, x) => Math.max(found, Math.abs(x)), 0);
  return Int8Array.from(vector, (x) => (most ? Math.round((127 * x) / most) : 0));
}
