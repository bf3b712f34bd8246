#!/usr/bin/env bash
# Fetches ONNX Runtime for the web, for `confp serve --browser-runtime .cache/onnxruntime-web/dist`; only once.
set -euo pipefail
cd "$(dirname "$0")/.."
package=onnxruntime-web@1.30
folder=.cache/onnxruntime-web
[ -d "$folder/dist" ] && exit
mkdir -p "$folder"
cd "$folder"
archive=$(npm pack --silent "$package")
tar xzf "$archive" --strip-components 1 package/dist/ort.wasm.bundle.min.mjs package/dist/ort-wasm-simd-threaded.wasm
rm "$archive"
