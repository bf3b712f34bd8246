// Computes fingerprints beside the page: ONNX Runtime for the web with the service's own model.

import { packed, queryInputs } from "./features.js";

const AT_ONCE = { contrast: 20, power: 4 };
let runtime = null;
let session = null;
let model = null;
let newest = 0; // what was asked last: the rest is given up

onmessage = async ({ data }) => {
  if (data.type === "vectors") newest = data.number;
  try {
    if (data.type === "load") await load(data);
    else await answer(data);
  } catch (error) {
    postMessage({ type: "failed", number: data.number, detail: error.message });
  }
};

async function load({ files, about }) {
  model = about;
  const progress = { loaded: 0, total: 0 };
  const [wasm, weights] = await Promise.all([fetched(files.wasm, progress), fetched(files.model, progress)]);
  runtime = await import(files.runtime);
  runtime.env.wasm.numThreads = 1; // more need a page that is isolated from other sites
  runtime.env.wasm.wasmBinary = wasm;
  session = await runtime.InferenceSession.create(weights, { executionProviders: ["wasm"], logSeverityLevel: 3 });
  postMessage({ type: "ready" });
}

// A file's bytes; says how far it and the others of `progress` are.
async function fetched(address, progress) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${new URL(address).pathname} is not there (${response.status})`);
  const size = Number(response.headers.get("Content-Length"));
  progress.total += size;
  const parts = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    progress.loaded += value.length;
    postMessage({ type: "progress", ...progress });
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function answer({ number, samples }) {
  const { numRows, contrast, power } = queryInputs(samples, model);
  const length = model.config.encoder.embedding_dim;
  const rows = new Int8Array(length * numRows);
  const numSteps = Math.max(Math.ceil(contrast.length / AT_ONCE.contrast), Math.ceil(power.length / AT_ONCE.power));
  for (let step = 0; step < numSteps; step++) {
    await new Promise((resolve) => setTimeout(resolve)); // lets a newer question in
    if (number !== newest) return;
    const some = (inputs, num) => inputs.slice(step * num, (step + 1) * num);
    const given = { contrast: some(contrast, AT_ONCE.contrast), power: some(power, AT_ONCE.power) };
    const { projected, conformed } = await run(given);
    for (const [inputs, found] of [[given.contrast, projected], [given.power, conformed]]) {
      inputs.forEach(({ row }, i) => rows.set(packed(found.data.subarray(i * length, (i + 1) * length)), row * length));
    }
    postMessage({ type: "done", number, done: step + 1, total: numSteps });
  }
  postMessage({ type: "vectors", number, rows }, [rows.buffer]);
}

// The vectors of some inputs of both kinds.
async function run(given) {
  const { audio, mel, encoder } = model.config;
  const { num_frames: segment, mel: bands } = encoder.projection;
  const frames = 1 + Math.floor((Math.round(audio.context_s * audio.sample_rate_hz) - mel.fft_samples) / mel.hop_samples);
  const contrast = filled(given.contrast, [segment, bands.num_mels]);
  const power = filled(given.power, [frames, mel.num_mels]);
  const seen = power.seen.length ? power.seen : [0, frames];
  const feeds = { contrast: contrast.tensor, power: power.tensor, seen: new runtime.Tensor("int32", Int32Array.from(seen), [seen.length / 2, 2]) };
  return session.run(feeds, ["projected", "conformed"]);
}

// Inputs as one tensor; of none one that says nothing, as the runtime refuses batches of 0.
function filled(inputs, shape) {
  const num = Math.max(1, inputs.length);
  const size = shape[0] * shape[1];
  const values = new Float32Array(num * size).fill(1);
  const seen = inputs.flatMap(({ fill }, i) => fill(values.subarray(i * size, (i + 1) * size)) ?? []);
  return { tensor: new runtime.Tensor("float32", values, [num, ...shape]), seen };
}
