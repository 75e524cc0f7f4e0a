//! Every operation of every backend and dtype against its reference, and the references' gradients
//! against finite differences.

mod amx;
mod arithmetic;
mod attention;
mod child;
#[cfg(feature = "cuda")]
mod copies;
#[cfg(feature = "cuda")]
mod counters;
mod cross_entropy;
mod elementwise;
mod errors;
mod gated;
mod gradients;
#[cfg(feature = "cuda")]
mod graphs;
mod levels;
mod linear;
mod linears;
mod memory;
mod operands;
mod optimizer;
#[cfg(feature = "cuda")]
mod orders;
mod quantize;
mod results;
mod rms_norm;
mod rope;
mod rounding;
#[cfg(feature = "cuda")]
mod routes;
mod support;
mod threads;

/// Runs each check on one backend and dtype.
macro_rules! checks {
    ($name:ident, $backend:expr, $dtype:expr) => {
        mod $name {
            checks!(@each $backend, $dtype,
                elementwise::check_add, elementwise::check_add_assign, elementwise::check_convert, elementwise::check_scale,
                elementwise::check_copy_and_gather,
                rms_norm::check_rms_norm, rms_norm::check_add_rms_norm, rms_norm::check_rms_norm_backward,
                rope::check_rope,
                gated::check_gated, gated::check_gated_backward, gated::check_linear_of_gated_backward,
                linear::check_linear, linear::check_linear_backward, linear::check_linear_accumulates,
                linear::check_tiled_linear, linear::check_ragged_linear, linear::check_linear_of_few_rows,
                linears::check_linears, linears::check_linears_backward, linears::check_inputs_that_differ,
                linears::check_linears_backward_rounds_once,
                rounding::check_linear_of_identity, rounding::check_few_rows_round_alike,
                rounding::check_linear_rounds_once, rounding::check_adapter_precision,
                attention::check_attention, attention::check_attention_backward, attention::check_shared_keys,
                attention::check_decode_attention, attention::check_decode_attention_of_nan,
                attention::check_attention_of_nan,
                cross_entropy::check_cross_entropy, cross_entropy::check_cross_entropy_of_nan,
                cross_entropy::check_cross_entropy_of_confident_tokens,
                optimizer::check_squared_norm, optimizer::check_adamw, optimizer::check_adamw_8bit,
                quantize::check_quantize,
            );
        }
    };
    (@each $backend:expr, $dtype:expr, $($module:ident::$check:ident),* $(,)?) => {
        $(
            #[test]
            fn $check() {
                crate::$module::$check(&$backend, $dtype);
            }
        )*
    };
}

checks!(cpu_f32, kernels::Cpu::new(), kernels::DType::F32);
checks!(cpu_bf16, kernels::Cpu::new(), kernels::DType::Bf16);

/// Of the device that the driver shows: a card, or the emulated one.
#[cfg(feature = "cuda")]
fn cuda() -> kernels::Cuda {
    kernels::Cuda::new(0).unwrap()
}

#[cfg(feature = "cuda")]
checks!(cuda_f32, crate::cuda(), kernels::DType::F32);
#[cfg(feature = "cuda")]
checks!(cuda_bf16, crate::cuda(), kernels::DType::Bf16);
