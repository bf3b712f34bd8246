// What the page computes of a clip, for the tests: `node features_of.mjs FEATURES MODEL CLIP FOLDER`.
// FEATURES: the page's features.js; MODEL: what v1/model says; CLIP: float32 samples.
import { readFileSync, writeFileSync } from "node:fs";

const [features, modelFile, clipFile, folder] = process.argv.slice(2);
const page = await import(`data:text/javascript;base64,${readFileSync(features).toString("base64")}`);
const model = JSON.parse(readFileSync(modelFile));
const bytes = readFileSync(clipFile);
const clip = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
const write = (name, values) => writeFileSync(`${folder}/${name}`, new Uint8Array(values.buffer, values.byteOffset, values.byteLength));

const { audio, mel, encoder } = model.config;
write("contrast", page.clipContrast(clip, encoder.projection, audio.sample_rate_hz));
write("power", page.melPower(clip, mel, audio.sample_rate_hz));

const { numRows, ...inputs } = page.queryInputs(clip, model);
const frames = 1 + Math.floor((audio.context_s * audio.sample_rate_hz - mel.fft_samples) / mel.hop_samples);
const sizes = { contrast: encoder.projection.num_frames * encoder.projection.mel.num_mels, power: frames * mel.num_mels };
for (const [kind, some] of Object.entries(inputs)) {
  const values = new Float32Array(sizes[kind] * some.length);
  const seen = some.flatMap(({ fill }, i) => fill(values.subarray(i * sizes[kind], (i + 1) * sizes[kind])) ?? []);
  write(`${kind}-values`, values);
  write(`${kind}-seen`, Int32Array.from(seen));
  write(`${kind}-rows`, Int32Array.from(some, ({ row }) => row));
}
write("packed", page.packed(Float32Array.of(0.1, -0.4, 0.2)));
writeFileSync(`${folder}/num-rows`, `${numRows}`);
