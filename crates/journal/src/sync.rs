//! What is shared between threads, from std or from loom.

#[cfg(epilogue_loom)]
#[allow(unused_imports, reason = "which of it is used depends on what is built")]
pub(crate) use loom::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering, fence},
};
#[cfg(not(epilogue_loom))]
#[allow(unused_imports, reason = "which of it is used depends on what is built")]
pub(crate) use std::sync::{
    Condvar, Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering, fence},
};
