//! Parallel loops for a training step: thousands of them, most of some 100 us, one after the other.
//!
//! The threads are those of the current rayon pool. A thread that a loop has called on stays for
//! [`LINGER`], watching for the next loop: rayon's would sleep after a few microseconds and take some
//! 40 us to be woken (a loop of 50 us on two threads took 81 us with 30 us between loops, against 50).
//! Each thread begins with its own share of the tasks, always the same one of equal loops, so that what
//! one loop wrote is in the caches of the core that reads it in the next; then it takes what others left.

#![allow(unsafe_code)]

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long a thread watches for the next loop.
const LINGER: Duration = Duration::from_micros(200);
/// Most threads of a loop.
const MOST: usize = 64;

thread_local! {
    /// Whether loops that this thread begins do nothing.
    static IDLE: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, loops that its thread begins do nothing.
pub(super) struct Idle(());

impl Idle {
    pub(super) fn begin() -> Self {
        IDLE.set(true);
        Self(())
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        IDLE.set(false);
    }
}

/// Runs `work` on each task, on all threads of the pool. Tasks may run in any order; a panic of one is
/// passed on when all that began have ended.
pub(super) fn for_each<T: Send>(tasks: impl IntoIterator<Item = T>, work: impl Fn(T) + Sync) {
    for_each_init(tasks, || (), |(), task| work(task));
}

/// One of several kinds of tasks.
#[cfg(amx)]
pub(super) type Task<'a> = Box<dyn FnOnce() + Send + 'a>;

/// Runs tasks as [`for_each`] does.
#[cfg(amx)]
pub(super) fn run_all<'a>(tasks: impl IntoIterator<Item = Task<'a>>) {
    for_each(tasks, |task| task());
}

/// As [`for_each`], with a value that `init` makes for each thread.
pub(super) fn for_each_init<T: Send, S: Send>(
    tasks: impl IntoIterator<Item = T>,
    init: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, T) + Sync,
) {
    if IDLE.get() {
        return;
    }
    let slots: Vec<Slot<T>> = tasks.into_iter().map(|task| Slot::new(Some(task))).collect();
    let states: Vec<Slot<S>> = (0..threads(slots.len())).map(|_| Slot::new(None)).collect();
    run(slots.len(), &|thread, index| {
        // SAFETY: `run` gives each index to one call only, so this is the only access to the slot.
        let task = unsafe { (*slots[index].0.get()).take() };
        // SAFETY: only one thread of a loop has this number, so nobody else uses the state.
        let state = unsafe { &mut *states[thread].0.get() };
        work(state.get_or_insert_with(&init), task.expect("each task is taken once"));
    });
}

/// Something that one thread at a time uses, as whoever accesses it must see to.
struct Slot<T>(UnsafeCell<Option<T>>);

impl<T> Slot<T> {
    const fn new(value: Option<T>) -> Self {
        Self(UnsafeCell::new(value))
    }
}

// SAFETY: accesses are exclusive, each justified where it is made; values move between threads only if
// they are `Send`.
unsafe impl<T: Send> Sync for Slot<T> {}

/// What a loop runs: the number of the thread in the loop, and an index.
type Work<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Threads of a loop over `count` tasks.
fn threads(count: usize) -> usize {
    rayon::current_num_threads().min(count).clamp(1, MOST)
}

fn run(count: usize, work: &Work<'_>) {
    let threads = threads(count);
    let region = match TEAM.region.try_lock() {
        // What a panic interrupted was closed as it unwound.
        Err(TryLockError::Poisoned(region)) => Some(region.into_inner()),
        region => region.ok(),
    };
    match region.filter(|_| threads > 1) {
        Some(_region) => TEAM.run(count, threads, work),
        // Within a loop, or beside another thread's.
        None => (0..count).for_each(|index| work(0, index)),
    }
}

struct Team {
    /// Held while a loop runs.
    region: Mutex<()>,
    /// The loop that threads may join; only valid while `open`.
    job: UnsafeCell<Option<Job>>,
    open: AtomicBool,
    /// Loops so far.
    epoch: AtomicUsize,
    /// Threads inside the open loop, besides the one that opened it.
    inside: AtomicUsize,
    shares: [Share; MOST],
    /// Whether a thread watches for this share of the next loop.
    present: [AtomicBool; MOST],
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Debug, Clone, Copy)]
struct Job {
    work: *const Work<'static>,
    threads: usize,
}

/// Tasks `next..end`; in a cache line of its own.
#[repr(align(128))]
struct Share {
    next: AtomicUsize,
    end: AtomicUsize,
}

// SAFETY: `job` is written only by the holder of `region` while the loop is closed and nobody is inside,
// and read only by threads that are inside an open loop.
unsafe impl Sync for Team {}

static TEAM: Team = Team {
    region: Mutex::new(()),
    job: UnsafeCell::new(None),
    open: AtomicBool::new(false),
    epoch: AtomicUsize::new(0),
    inside: AtomicUsize::new(0),
    shares: [const { Share { next: AtomicUsize::new(0), end: AtomicUsize::new(0) } }; MOST],
    present: [const { AtomicBool::new(false) }; MOST],
    panic: Mutex::new(None),
};

impl Team {
    fn run(&'static self, count: usize, threads: usize, work: &Work<'_>) {
        for (i, share) in self.shares[..threads].iter().enumerate() {
            share.next.store(i * count / threads, Ordering::Relaxed);
            share.end.store((i + 1) * count / threads, Ordering::Relaxed);
        }
        // SAFETY: only the lifetime changes. `close` returns only when no thread is inside, and none
        // enters a closed loop, so nobody calls `work` after this function has returned or unwound.
        let work: &'static Work<'static> = unsafe { std::mem::transmute(work) };
        // SAFETY: the caller holds `region` and the last loop was closed.
        unsafe { *self.job.get() = Some(Job { work, threads }) };
        self.open.store(true, Ordering::SeqCst);
        self.epoch.fetch_add(1, Ordering::SeqCst);
        for share in 1..threads {
            if !self.present[share].swap(true, Ordering::SeqCst) {
                rayon::spawn(move || self.watch(share));
            }
        }
        let mine = catch_unwind(AssertUnwindSafe(|| self.take(0, threads, work)));
        self.close();
        let others = self.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(panic) = mine.err().or(others) {
            resume_unwind(panic);
        }
    }

    /// Runs the tasks of a share, then those that are left of the others.
    fn take(&self, thread: usize, threads: usize, work: &Work<'_>) {
        for i in 0..threads {
            let share = &self.shares[(thread + i) % threads];
            loop {
                let index = share.next.fetch_add(1, Ordering::Relaxed);
                if index >= share.end.load(Ordering::Relaxed) {
                    break;
                }
                work(thread, index);
            }
        }
    }

    /// Joins loops until there has been none for a while.
    fn watch(&self, share: usize) {
        let mut seen = self.epoch.load(Ordering::SeqCst);
        loop {
            self.inside.fetch_add(1, Ordering::SeqCst);
            if self.open.load(Ordering::SeqCst) {
                self.join(share);
            }
            self.inside.fetch_sub(1, Ordering::SeqCst);
            seen = match self.next_epoch(seen) {
                Some(epoch) => epoch,
                None => break,
            };
        }
        self.present[share].store(false, Ordering::SeqCst);
    }

    /// Waits for a loop that began after `seen`.
    fn next_epoch(&self, seen: usize) -> Option<usize> {
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                let epoch = self.epoch.load(Ordering::SeqCst);
                if epoch != seen && self.open.load(Ordering::SeqCst) {
                    return Some(epoch);
                }
                std::hint::spin_loop();
            }
            if start.elapsed() > LINGER {
                return None;
            }
        }
    }

    /// Helps with the open loop.
    fn join(&self, share: usize) {
        // SAFETY: this thread is inside and saw the loop open after it had entered, so `close` waits for
        // it: the job is the open loop's and stays.
        let Some(Job { work, threads }) = (unsafe { *self.job.get() }) else {
            return;
        };
        if share >= threads {
            return;
        }
        // SAFETY: as above; `run` keeps what `work` points to until the loop is closed.
        let work = unsafe { &*work };
        let result = catch_unwind(AssertUnwindSafe(|| self.take(share, threads, work)));
        if let Err(panic) = result {
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        }
    }

    /// Lets nobody in any more and waits for those inside.
    fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        let mut spins = 0;
        while self.inside.load(Ordering::SeqCst) > 0 {
            spins += 1;
            if spins % 1024 == 0 {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pool(threads: usize, run: impl FnOnce() + Send) {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads").install(run);
    }

    #[test]
    fn every_index_is_run_once() {
        for threads in [1, 2, 3, 5] {
            in_pool(threads, || {
                for count in [0, 1, 2, 3, 7, 100] {
                    for _ in 0..50 {
                        let runs: Vec<AtomicUsize> =
                            (0..count).map(|_| AtomicUsize::new(0)).collect();
                        for_each(0..count, |i: usize| {
                            runs[i].fetch_add(1, Ordering::Relaxed);
                        });
                        assert!(runs.iter().all(|x| x.load(Ordering::Relaxed) == 1));
                    }
                }
            });
        }
    }

    #[test]
    fn tasks_are_moved_and_loops_nest() {
        in_pool(3, || {
            let sum = AtomicUsize::new(0);
            for_each((0..20).map(|i| vec![i; 3]), |task| {
                for_each(task, |i| {
                    sum.fetch_add(i, Ordering::Relaxed);
                });
            });
            assert_eq!(sum.into_inner(), 3 * 190);
        });
    }

    #[test]
    fn a_thread_keeps_its_state() {
        in_pool(3, || {
            let made = AtomicUsize::new(0);
            let init = || {
                made.fetch_add(1, Ordering::Relaxed);
                0
            };
            let last = AtomicUsize::new(0);
            for_each_init(0..1_000_usize, init, |state, _| {
                *state += 1;
                last.fetch_max(*state, Ordering::Relaxed);
            });
            assert!((1..=3).contains(&made.into_inner()));
            assert!(last.into_inner() >= 1_000 / 3);
        });
    }

    #[test]
    fn all_threads_take_part() {
        in_pool(3, || {
            // Each of three tasks waits for the others.
            let barrier = std::sync::Barrier::new(3);
            for _ in 0..20 {
                for_each(0..3, |_: usize| {
                    barrier.wait();
                });
                std::thread::sleep(2 * LINGER);
            }
        });
    }

    #[test]
    fn a_panic_is_passed_on_and_the_next_loop_runs() {
        in_pool(2, || {
            for bad in [0, 9] {
                let result = catch_unwind(|| for_each(0..10, |i: usize| assert_ne!(i, bad)));
                assert!(result.is_err());
                let sum = AtomicUsize::new(0);
                for_each(0..10, |i: usize| {
                    sum.fetch_add(i, Ordering::Relaxed);
                });
                assert_eq!(sum.into_inner(), 45);
                // On both threads, each of which waits for the other.
                let barrier = std::sync::Barrier::new(2);
                for_each(0..2, |_: usize| {
                    barrier.wait();
                });
            }
        });
    }
}
