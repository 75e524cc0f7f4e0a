# shellcheck shell=bash
# Sourced by kill-storm.sh and fault-sweep.sh: the binary, a place to work in, and a run of the tests' tiny model.

binary=${QLORA_TRAIN:-target/release/qlora-train}
[ -x "$binary" ] || cargo build --release
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# tiny_model ROWS puts the model into $work/model and so many rows into $work/rows.jsonl.
tiny_model() {
    mkdir "$work/model"
    cp tests/fixtures/models/llama/{config.json,model.safetensors} "$work/model"
    cp tests/fixtures/tokenizer/{tokenizer.json,tokenizer_config.json} "$work/model"
    for i in $(seq "$1"); do
        echo "{\"messages\": [{\"role\": \"user\", \"content\": \"question $i\"}, {\"role\": \"assistant\", \"content\": \"answer $((i % 3))\"}]}"
    done >"$work/rows.jsonl"
}

# adapters RUN prints the hashes of what a run is for.
adapters() {
    (cd "$1" && sha256sum adapter/* adapter-last/*)
}

# Whether there is anything in the directory of a run that was never completed.
half_written() {
    compgen -G "$1/.tmp-*" >/dev/null || compgen -G "$1/checkpoints/.tmp-*" >/dev/null
}
