//! Names inside a function.

use std::collections::{HashMap, HashSet};

use crate::ptx::RegisterId;

/// More nested scopes than any compiler writes.
const MAX_DEPTH: usize = 64;

/// What a name in a function means.
#[derive(Clone, Debug)]
pub(super) enum Local {
    Register(RegisterId),
    /// A variable, parameter or label, under the name that is unique in the function.
    Symbol(String),
}

/// The scopes that are open, and every name of the function so far. Nested scopes are flattened,
/// so a name declared in one gets a suffix.
#[derive(Default)]
pub(super) struct Scopes {
    open: Vec<HashMap<String, Local>>,
    /// Names given out, of scopes closed since too.
    taken: HashSet<String>,
    /// Last suffix given out.
    suffix: u32,
}

impl Scopes {
    /// Forgets the last function.
    pub(super) fn start_function(&mut self) {
        *self = Self::default();
    }

    /// Opens a scope; false where too many are open.
    pub(super) fn push(&mut self) -> bool {
        self.open.push(HashMap::new());
        self.suffix += u32::from(self.depth() > 1);
        self.open.len() <= MAX_DEPTH
    }

    /// Closes the innermost scope; false where it was the last.
    pub(super) fn pop(&mut self) -> bool {
        self.open.pop();
        self.depth() != 0
    }

    /// Open scopes inside the parameters' one.
    fn depth(&self) -> usize {
        self.open.len().saturating_sub(1)
    }

    /// A name for what is written as `name` in the innermost scope. `foreign` says which names
    /// mean something outside of the function.
    pub(super) fn unique(&mut self, name: &str, foreign: impl Fn(&str) -> bool) -> String {
        let mut unique =
            if self.depth() > 1 { format!("{name}${}", self.suffix) } else { name.to_owned() };
        while self.taken.contains(&unique) || (unique != name && foreign(&unique)) {
            self.suffix += 1;
            unique = format!("{name}${}", self.suffix);
        }
        self.taken.insert(unique.clone());
        unique
    }

    /// Declares `name` in the innermost scope; false where it is declared there already.
    pub(super) fn declare(&mut self, name: &str, local: Local) -> bool {
        let innermost = self.open.last_mut();
        innermost.is_none_or(|scope| scope.insert(name.to_owned(), local).is_none())
    }

    /// What `name` means here.
    pub(super) fn find(&self, name: &str) -> Option<&Local> {
        self.open.iter().rev().find_map(|scope| scope.get(name))
    }
}
