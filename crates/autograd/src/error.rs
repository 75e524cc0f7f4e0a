//! Errors of the autograd core.

/// Result of an autograd operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong while recording or running a tape.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation of the backend failed.
    #[error(transparent)]
    Kernel(#[from] kernels::Error),
    /// Two tensors do not fit together.
    #[error("{op}: {operand} has shape {actual:?}, expected {expected:?}")]
    Shape {
        /// Operation.
        op: &'static str,
        /// Operand.
        operand: &'static str,
        /// Shape found.
        actual: Vec<usize>,
        /// Shape asked for.
        expected: Vec<usize>,
    },
    /// Gradients or optimizer state belong to another set of parameters.
    #[error("{what} has {actual} tensors, the parameters are {expected}")]
    ParamCount {
        /// What was passed.
        what: &'static str,
        /// Tensors it has.
        actual: usize,
        /// Tensors there are.
        expected: usize,
    },
    /// A stored state was made by another optimizer or for parameters of other sizes.
    #[error(
        "the moments stored for `{name}` do not have the type and size that this optimizer holds"
    )]
    OptimizerState {
        /// The parameter.
        name: String,
    },
}
