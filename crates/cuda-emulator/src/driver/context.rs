//! Contexts: which is current, and what happens at the end of one.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
};

use crate::{
    driver::{
        error::{Code, Status},
        state::{Context, Id, State, StreamKind},
    },
    findings::Check,
};

thread_local! {
    /// The thread's stack of contexts; the last is current.
    static CURRENT: RefCell<Vec<Id>> = const { RefCell::new(Vec::new()) };
}

fn with_stack<T: Default>(action: impl FnOnce(&mut Vec<Id>) -> T) -> T {
    // The stack is gone while a thread ends; nothing is current then.
    CURRENT.try_with(|stack| action(&mut stack.borrow_mut())).unwrap_or_default()
}

/// The thread's current context, 0 if there is none.
pub(crate) fn current() -> Id {
    with_stack(|stack| stack.last().copied().unwrap_or(0))
}

impl State {
    /// The current context, if it is alive and no fault has been reported in it.
    pub(crate) fn context(&self) -> Status<Id> {
        let id = current();
        match self.contexts.get(id)?.lost {
            Some(code) => Err(code),
            None => Ok(id),
        }
    }

    /// Says of a fault once the host waits; from then on every call says it.
    pub(crate) fn surface(&mut self, context: Id) -> Status {
        let context = self.contexts.get_mut(context)?;
        context.lost = context.lost.or(context.fault);
        context.lost.map_or(Ok(()), Err)
    }

    fn add_context(&mut self, id: Id, primary: bool, flags: u32) -> Id {
        let legacy = self.add_stream(id, StreamKind::Legacy, 0);
        let context = Context {
            primary,
            references: 1,
            flags,
            cache_config: 0,
            limits: BTreeMap::from([(0, 1024), (1, 1 << 20), (2, 8 << 20)]),
            legacy,
            per_thread: HashMap::new(),
            fault: None,
            lost: None,
        };
        self.contexts.insert(id, context)
    }

    /// `cuCtxCreate`: the new context becomes current.
    pub(crate) fn create_context(&mut self, flags: u32) -> Id {
        let id = self.fresh();
        self.add_context(id, false, flags);
        with_stack(|stack| stack.push(id));
        id
    }

    /// `cuDevicePrimaryCtxRetain`. The handle stays the same over the life of the process.
    pub(crate) fn retain_primary(&mut self) -> Id {
        let id = match self.primary {
            Some(id) => id,
            None => self.fresh(),
        };
        self.primary = Some(id);
        match self.contexts.get_mut(id) {
            Ok(context) => context.references += 1,
            Err(_) => {
                self.add_context(id, true, 0);
            }
        }
        id
    }

    /// `cuDevicePrimaryCtxRelease`.
    pub(crate) fn release_primary(&mut self) -> Status {
        let id = self.primary.ok_or(Code::INVALID_CONTEXT)?;
        let context = self.contexts.get_mut(id)?;
        context.references -= 1;
        if context.references == 0 {
            self.end_context(id);
        }
        Ok(())
    }

    /// `cuDevicePrimaryCtxReset`.
    pub(crate) fn reset_primary(&mut self) {
        if let Some(id) = self.primary.filter(|id| self.contexts.get(*id).is_ok()) {
            self.end_context(id);
        }
    }

    /// `cuCtxDestroy`.
    pub(crate) fn destroy_context(&mut self, id: Id) -> Status {
        if self.contexts.get(id)?.primary {
            return Err(Code::INVALID_CONTEXT);
        }
        self.end_context(id);
        with_stack(|stack| {
            if stack.last() == Some(&id) {
                stack.pop();
            }
        });
        Ok(())
    }

    /// `cuCtxSetCurrent`: replaces the top of the thread's stack; 0 removes it.
    pub(crate) fn set_current(&self, id: Id) -> Status {
        if id != 0 {
            self.contexts.get(id)?;
        }
        with_stack(|stack| {
            stack.pop();
            if id != 0 {
                stack.push(id);
            }
        });
        Ok(())
    }

    /// `cuCtxPushCurrent`.
    pub(crate) fn push_current(&self, id: Id) -> Status {
        self.contexts.get(id)?;
        with_stack(|stack| stack.push(id));
        Ok(())
    }

    /// `cuCtxPopCurrent`.
    pub(crate) fn pop_current() -> Status<Id> {
        with_stack(Vec::pop).ok_or(Code::INVALID_CONTEXT)
    }

    fn end_context(&mut self, id: Id) {
        self.drain();
        self.report_leaks(Some(id));
        let owned: Vec<u64> = self
            .allocations
            .iter()
            .filter(|(_, allocation)| allocation.context == id)
            .map(|(base, _)| *base)
            .collect();
        for base in owned {
            self.allocations.remove(&base);
            self.hazards.forget(base);
            // It is live: frees of it that were submitted have run.
            let _ = self.memory.free(base);
        }
        for (_, module) in self.modules.iter().filter(|(_, m)| m.context == id) {
            module.loaded.unload(&mut self.memory);
        }
        self.streams.retain(|stream| stream.context != id);
        self.events.retain(|event| event.context != id);
        self.modules.retain(|module| module.context != id);
        self.functions.retain(|function| function.context != id);
        self.captures.retain(|capture| capture.context != id);
        self.graphs.retain(|graph| graph.context != id);
        self.executables.retain(|executable| executable.context != id);
        let _ = self.contexts.remove(id);
        self.write_report();
    }

    /// Reports the allocations of a context, or of all, as leaks; not those of a lost one, whose
    /// program could not free them.
    pub(crate) fn report_leaks(&mut self, context: Option<Id>) {
        for (base, allocation) in &self.allocations {
            let owner = self.contexts.get(allocation.context);
            let lost = owner.is_ok_and(|c| c.lost.is_some() || c.fault.is_some());
            if context.is_none_or(|id| id == allocation.context) && !allocation.freed && !lost {
                let message = format!(
                    "{} bytes at {base:#x} were never freed; allocation {} of the process",
                    allocation.bytes, allocation.serial
                );
                self.journal.host(Check::Leak, allocation.call, Some(*base), message);
            }
        }
    }
}
