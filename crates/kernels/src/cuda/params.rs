//! The parameter structs of `kernels/include/params.h`, and which kernel takes which.

#![allow(
    missing_docs,
    non_camel_case_types,
    non_upper_case_globals,
    unreachable_pub,
    dead_code,
    clippy::pedantic
)]

use std::marker::PhantomData;

include!(concat!(env!("OUT_DIR"), "/params.rs"));

/// A kernel by its name, and the struct that it takes.
#[derive(Debug)]
pub(super) struct Kernel<P> {
    pub(super) name: &'static str,
    params: PhantomData<P>,
}

macro_rules! kernels {
    ($($constant:ident: $name:literal takes $params:ty;)*) => {
        $(pub(super) const $constant: Kernel<$params> = Kernel { name: $name, params: PhantomData };)*

        /// Every kernel, and the bytes of its parameters.
        pub(super) const ALL: &[(&str, usize)] = &[$(($name, size_of::<$params>())),*];
    };
}

kernels! {
    ADD: "add" takes AddParams;
    SCALE: "scale" takes ScaleParams;
    GATHER_ROWS: "gather_rows" takes GatherParams;
    SCATTER_ROWS: "scatter_rows" takes ScatterParams;
    RMS_NORM: "rms_norm" takes RmsNormParams;
    RMS_NORM_SHORT: "rms_norm_short" takes RmsNormParams;
    RMS_NORM_BACKWARD: "rms_norm_backward" takes RmsNormBackwardParams;
    RMS_NORM_BACKWARD_SHORT: "rms_norm_backward_short" takes RmsNormBackwardParams;
    ROPE: "rope" takes RopeParams;
    GATED: "gated" takes GatedParams;
    GATED_BACKWARD: "gated_backward" takes GatedBackwardParams;
    MATMUL: "matmul" takes MatmulParams;
    MATVEC_1: "matvec_1" takes MatvecParams;
    MATVEC_4: "matvec_4" takes MatvecParams;
    NF4_MATVEC_16: "nf4_matvec_16" takes MatvecParams;
    NF4_MATVEC_32: "nf4_matvec_32" takes MatvecParams;
    NF4_MATMUL_64: "nf4_matmul_64" takes TileMatmulParams;
    NF4_MATMUL_128: "nf4_matmul_128" takes TileMatmulParams;
    NF4_MATMUL_BACKWARD_64: "nf4_matmul_backward_64" takes TileMatmulParams;
    NF4_MATMUL_BACKWARD_128: "nf4_matmul_backward_128" takes TileMatmulParams;
    DENSE_MATMUL_64: "dense_matmul_64" takes TileMatmulParams;
    DENSE_MATMUL_128: "dense_matmul_128" takes TileMatmulParams;
    DENSE_MATMUL_BACKWARD_64: "dense_matmul_backward_64" takes TileMatmulParams;
    DENSE_MATMUL_BACKWARD_128: "dense_matmul_backward_128" takes TileMatmulParams;
    DEQUANTIZE: "dequantize" takes DequantizeParams;
    LORA_SHRINK_16: "lora_shrink_16" takes LoraParams;
    LORA_SHRINK_32: "lora_shrink_32" takes LoraParams;
    LORA_SHRINK_64: "lora_shrink_64" takes LoraParams;
    LORA_GRADIENT_16: "lora_gradient_16" takes LoraParams;
    LORA_GRADIENT_32: "lora_gradient_32" takes LoraParams;
    LORA_GRADIENT_64: "lora_gradient_64" takes LoraParams;
    SPLIT: "split" takes SplitParams;
    ROUND_ROWS: "round_rows" takes RoundRowsParams;
    ATTENTION_FORWARD: "attention_forward" takes AttentionParams;
    ATTENTION_BACKWARD_Q: "attention_backward_q" takes AttentionBackwardParams;
    ATTENTION_BACKWARD_KV: "attention_backward_kv" takes AttentionBackwardParams;
    FLASH_ATTENTION_64: "flash_attention_64" takes AttentionParams;
    FLASH_ATTENTION_96: "flash_attention_96" takes AttentionParams;
    FLASH_ATTENTION_128: "flash_attention_128" takes AttentionParams;
    FLASH_ATTENTION_256: "flash_attention_256" takes AttentionParams;
    FLASH_ATTENTION_DELTA: "flash_attention_delta" takes AttentionBackwardParams;
    FLASH_ATTENTION_BACKWARD_Q_64: "flash_attention_backward_q_64" takes AttentionBackwardParams;
    FLASH_ATTENTION_BACKWARD_Q_96: "flash_attention_backward_q_96" takes AttentionBackwardParams;
    FLASH_ATTENTION_BACKWARD_Q_128: "flash_attention_backward_q_128" takes AttentionBackwardParams;
    FLASH_ATTENTION_BACKWARD_Q_256: "flash_attention_backward_q_256" takes AttentionBackwardParams;
    FLASH_ATTENTION_BACKWARD_KV_64: "flash_attention_backward_kv_64" takes AttentionBackwardParams;
    FLASH_ATTENTION_BACKWARD_KV_96: "flash_attention_backward_kv_96" takes AttentionBackwardParams;
    FLASH_ATTENTION_BACKWARD_KV_128: "flash_attention_backward_kv_128" takes AttentionBackwardParams;
    FLASH_ATTENTION_BACKWARD_KV_256: "flash_attention_backward_kv_256" takes AttentionBackwardParams;
    DECODE_ATTENTION_BF16_1: "decode_attention_bf16_1" takes DecodeAttentionParams;
    DECODE_ATTENTION_BF16_4: "decode_attention_bf16_4" takes DecodeAttentionParams;
    DECODE_ATTENTION_BF16_8: "decode_attention_bf16_8" takes DecodeAttentionParams;
    DECODE_ATTENTION_F32_1: "decode_attention_f32_1" takes DecodeAttentionParams;
    DECODE_ATTENTION_F32_4: "decode_attention_f32_4" takes DecodeAttentionParams;
    DECODE_ATTENTION_F32_8: "decode_attention_f32_8" takes DecodeAttentionParams;
    DECODE_ATTENTION_COMBINE: "decode_attention_combine" takes DecodeAttentionParams;
    CROSS_ENTROPY: "cross_entropy" takes CrossEntropyParams;
    QUANTIZE: "quantize" takes QuantizeParams;
    SQUARED_NORM: "squared_norm" takes SquaredNormParams;
    ADAMW: "adamw" takes AdamWParams;
    ADAMW_8BIT: "adamw_8bit" takes AdamW8bitParams;
}
