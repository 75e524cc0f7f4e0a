//! One operation over all lanes of a warp, on the widest vectors the processor has.

use pulp::NullaryFnOnce;

use super::{
    lane::{Indices, Lane},
    registers::{Class, Operands, Registers, WARP},
};

/// What one lane computes.
pub(super) trait Operation {
    /// Source operands in order.
    type Sources: Bundle;
    /// Results in order.
    type Results: Bundle;

    fn apply(sources: Self::Sources) -> Self::Results;
}

/// The sources or the results of an operation.
pub(super) trait Bundle: Copy {
    type Views<'a>: Copy;
    type Columns;

    /// Register operands it takes.
    const OPERANDS: usize;
    /// Whether one of them is a predicate or the carry flag.
    const HAS_BITS: bool;

    fn classes() -> Vec<Class>;
    fn views<'a>(registers: &'a Registers, at: &mut Indices) -> Self::Views<'a>;
    fn get(views: Self::Views<'_>, lane: usize) -> Self;
    fn columns() -> Self::Columns;
    fn set(self, columns: &mut Self::Columns, lane: usize);
    fn commit(columns: &Self::Columns, registers: &mut Registers, at: &mut Indices, mask: u32);
}

macro_rules! bundle {
    ($($name:ident $index:tt),*) => {
        impl<$($name: Lane),*> Bundle for ($($name,)*) {
            type Views<'a> = ($($name::View<'a>,)*);
            type Columns = ($($name::Column,)*);

            const HAS_BITS: bool = false $(|| matches!($name::CLASS, None | Some(Class::P)))*;
            const OPERANDS: usize = 0 $(+ $name::CLASS.is_some() as usize)*;

            fn classes() -> Vec<Class> {
                [$($name::CLASS),*].into_iter().flatten().collect()
            }
            #[inline(always)]
            fn views<'a>(registers: &'a Registers, at: &mut Indices) -> Self::Views<'a> {
                ($($name::view(registers, at),)*)
            }
            #[inline(always)]
            fn get(views: Self::Views<'_>, lane: usize) -> Self {
                ($($name::get(views.$index, lane),)*)
            }
            #[inline(always)]
            fn columns() -> Self::Columns {
                ($($name::column(),)*)
            }
            #[inline(always)]
            fn set(self, columns: &mut Self::Columns, lane: usize) {
                $(self.$index.set(&mut columns.$index, lane);)*
            }
            #[inline(always)]
            fn commit(columns: &Self::Columns, registers: &mut Registers, at: &mut Indices, mask: u32) {
                $($name::commit(&columns.$index, registers, at, mask);)*
            }
        }
    };
}

bundle!(A 0);
bundle!(A 0, B 1);
bundle!(A 0, B 1, C 2);
bundle!(A 0, B 1, C 2, D 3);

struct Warp<'a, O> {
    registers: &'a mut Registers,
    operands: &'a Operands,
    mask: u32,
    operation: std::marker::PhantomData<O>,
}

impl<O: Operation> NullaryFnOnce for Warp<'_, O> {
    type Output = ();

    // Inlined into the function that turns the vector instructions on, or it would not use them.
    #[inline(always)]
    fn call(self) {
        let mut columns = O::Results::columns();
        let views =
            O::Sources::views(self.registers, &mut Indices(&self.operands[O::Results::OPERANDS..]));
        // Unrolled code for a known count suits vectors; bits collected for a predicate need a loop
        // that the vectoriser sees.
        let count = if O::Results::HAS_BITS { std::hint::black_box(WARP) } else { WARP };
        for lane in 0..count.min(WARP) {
            O::apply(O::Sources::get(views, lane)).set(&mut columns, lane);
        }
        O::Results::commit(&columns, self.registers, &mut Indices(self.operands), self.mask);
    }
}

/// Runs `O` for the lanes of `mask`.
pub(super) fn run<O: Operation>(registers: &mut Registers, operands: &Operands, mask: u32) {
    vectorized(Warp::<O> { registers, operands, mask, operation: std::marker::PhantomData });
}

/// Runs `f` with AVX2 and FMA where the processor has them. AVX-512 gains nothing on 32 lanes and
/// would double the code.
#[inline(always)]
pub(super) fn vectorized<F: NullaryFnOnce>(f: F) -> F::Output {
    #[cfg(target_arch = "x86_64")]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(f);
    }
    f.call()
}

/// [`vectorized`] for a closure. It must be `#[inline(always)]`, as everything in it that is to use
/// the vectors; `FnMut`, because the call of an `FnOnce` goes through a function of its own.
#[inline(always)]
pub(crate) fn wide<R>(f: impl FnMut() -> R) -> R {
    struct Wide<F>(F);

    impl<R, F: FnMut() -> R> NullaryFnOnce for Wide<F> {
        type Output = R;

        #[inline(always)]
        fn call(mut self) -> R {
            (self.0)()
        }
    }

    vectorized(Wide(f))
}
