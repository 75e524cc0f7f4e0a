//! The table from opcode to operation.

use std::{collections::HashMap, sync::LazyLock};

use super::{
    operation::{self, Bundle, Operation},
    ops,
    registers::{Class, Operands, Registers},
};
use crate::counters::InstructionClass;

/// An operation over all lanes of a mask; lanes outside keep what they hold.
pub type Run = fn(&mut Registers, &Operands, u32);

/// One opcode.
#[derive(Debug)]
pub struct Entry {
    /// The opcode as written in PTX.
    pub opcode: String,
    /// Where each result goes.
    pub results: &'static [Class],
    /// Where each source comes from.
    pub sources: &'static [Class],
    /// What it counts as.
    pub class: InstructionClass,
    /// The operation. Operands are the results, then the sources.
    pub run: Run,
}

/// The entry of `opcode`.
pub fn find(opcode: &str) -> Option<&'static Entry> {
    TABLE.get(opcode)
}

/// All entries, in no order.
pub fn entries() -> impl Iterator<Item = &'static Entry> {
    TABLE.values()
}

static TABLE: LazyLock<HashMap<String, Entry>> = LazyLock::new(|| {
    let mut table = Table::default();
    ops::add_all(&mut table);
    table.0.into_iter().map(|entry| (entry.opcode.clone(), entry)).collect()
});

/// Entries while the table is built.
#[derive(Default)]
pub(super) struct Table(pub(super) Vec<Entry>);

impl Table {
    /// Adds every opcode of `pattern`: `(.a|.b|)` stands for each of its alternatives.
    pub(super) fn add<O: Operation>(&mut self, pattern: &str, class: InstructionClass) {
        let results = Vec::leak(O::Results::classes());
        let sources = Vec::leak(O::Sources::classes());
        for opcode in expand(pattern) {
            self.0.push(Entry { opcode, results, sources, class, run: operation::run::<O> });
        }
    }
}

/// `op!(table, Class, "pattern", (x: u32, y: u32) -> (u32) { ... })` adds an operation.
macro_rules! op {
    ($table:expr, $class:ident, $pattern:expr, ($($name:ident: $ty:ty),+) -> ($($result:ty),+) $body:block) => {{
        struct Op;
        impl $crate::alu::operation::Operation for Op {
            type Sources = ($($ty,)+);
            type Results = ($($result,)+);
            #[inline(always)]
            fn apply(($($name,)+): Self::Sources) -> Self::Results {
                $crate::alu::table::op!(@tuple $body $($result),+)
            }
        }
        $table.add::<Op>($pattern, $crate::counters::InstructionClass::$class);
    }};
    (@tuple $body:block $one:ty) => { ($body,) };
    (@tuple $body:block $($many:ty),+) => { $body };
}
pub(super) use op;

fn expand(pattern: &str) -> Vec<String> {
    let Some((head, rest)) = pattern.split_once('(') else {
        return vec![pattern.to_owned()];
    };
    let (group, tail) = rest.split_once(')').expect("a pattern closes its groups");
    let tails = expand(tail);
    let alternatives = group.split('|');
    alternatives.flat_map(|a| tails.iter().map(move |t| format!("{head}{a}{t}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_expand_to_every_combination() {
        assert_eq!(expand("a(.b|.c)(.d|)"), ["a.b.d", "a.b", "a.c.d", "a.c"]);
        assert_eq!(expand("mov.b32"), ["mov.b32"]);
    }

    #[test]
    fn no_opcode_is_defined_twice() {
        let mut table = Table::default();
        ops::add_all(&mut table);
        let mut seen = std::collections::HashSet::new();
        for entry in &table.0 {
            assert!(seen.insert(&entry.opcode), "{} is defined twice", entry.opcode);
        }
    }
}
