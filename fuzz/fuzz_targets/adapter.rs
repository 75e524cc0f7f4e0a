//! A PEFT adapter: `adapter_config.json`, then the header and the data of its weights.
#![no_main]

use std::collections::BTreeMap;

use fuzz::{Scratch, parts, safetensors};
use libfuzzer_sys::fuzz_target;
use models::adapter::{CONFIG_FILE, WEIGHTS_FILE, check_all_match, read_adapter};

fuzz_target!(|input: &[u8]| {
    let [config, header, data] = parts(input);
    let dir = Scratch::new();
    dir.write(CONFIG_FILE, config);
    dir.write(WEIGHTS_FILE, &safetensors(header, data));
    let module = |layer: usize, name: &str| format!("model.layers.{layer}.{name}");
    let modules: BTreeMap<String, [usize; 2]> = (0..2)
        .flat_map(|layer| {
            [
                (module(layer, "self_attn.q_proj"), [4, 4]),
                (module(layer, "self_attn.v_proj"), [2, 4]),
                (module(layer, "mlp.up_proj"), [8, 4]),
            ]
        })
        .collect();
    if let Ok((lora, weights)) = read_adapter(dir.path(), &modules) {
        for (module, factors) in &weights {
            let [out_features, in_features] = modules[module];
            assert_eq!(factors.a.len() * out_features, factors.b.len() * in_features, "{module}");
            assert!(factors.a.iter().chain(&factors.b).all(|value| value.is_finite()));
        }
        let names: Vec<String> = modules.into_keys().collect();
        let _ = check_all_match(&lora, &names);
    }
});
