//! llama.cpp's tensor names in Hugging Face's terms.

/// The Hugging Face name of a GGUF tensor of a Llama-like decoder, or `None` for one that such a decoder does not have.
///
/// Source: `gguf-py/gguf/tensor_mapping.py` of llama.cpp.
pub(super) fn hugging_face_name(gguf: &str) -> Option<String> {
    let fixed = match gguf {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(name) = fixed {
        return Some(name.to_owned());
    }
    let (layer, rest) = gguf.strip_prefix("blk.")?.split_once('.')?;
    let canonical = layer.parse::<u32>().is_ok_and(|n| n.to_string() == layer);
    let (module, parameter) = rest.rsplit_once('.')?;
    let (module, may_have_bias) = match module {
        "attn_norm" => ("input_layernorm", false),
        "ffn_norm" => ("post_attention_layernorm", false),
        "attn_q" => ("self_attn.q_proj", true),
        "attn_k" => ("self_attn.k_proj", true),
        "attn_v" => ("self_attn.v_proj", true),
        "attn_output" => ("self_attn.o_proj", true),
        "attn_q_norm" => ("self_attn.q_norm", false),
        "attn_k_norm" => ("self_attn.k_norm", false),
        "ffn_gate" => ("mlp.gate_proj", true),
        "ffn_up" => ("mlp.up_proj", true),
        "ffn_down" => ("mlp.down_proj", true),
        _ => return None,
    };
    let known = parameter == "weight" || (parameter == "bias" && may_have_bias);
    (canonical && known).then(|| format!("model.layers.{layer}.{module}.{parameter}"))
}

#[cfg(test)]
mod tests {
    use super::hugging_face_name;

    #[test]
    fn names() {
        let cases = [
            ("token_embd.weight", Some("model.embed_tokens.weight")),
            ("output.weight", Some("lm_head.weight")),
            ("blk.12.attn_q.weight", Some("model.layers.12.self_attn.q_proj.weight")),
            ("blk.0.attn_v.bias", Some("model.layers.0.self_attn.v_proj.bias")),
            ("blk.3.attn_k_norm.weight", Some("model.layers.3.self_attn.k_norm.weight")),
            ("blk.3.ffn_down.weight", Some("model.layers.3.mlp.down_proj.weight")),
            ("blk.03.ffn_down.weight", None),
            ("blk.3.attn_norm.bias", None),
            ("blk.3.ffn_gate_exps.weight", None),
            ("blk.x.ffn_down.weight", None),
            ("blk.1.", None),
        ];
        for (gguf, expected) in cases {
            assert_eq!(hugging_face_name(gguf).as_deref(), expected, "{gguf}");
        }
    }
}
