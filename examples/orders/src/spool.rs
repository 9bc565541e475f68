//! Where uploads are kept while they are half done.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// A half-done upload. Given up, its file goes; kept, it moves to its place.
pub trait Spool: Send {
    /// The file while it is being written.
    fn path(&self) -> &Path;

    /// Moves the finished file to `to`.
    ///
    /// # Errors
    ///
    /// When it cannot be moved; then it is removed.
    fn keep(self: Box<Self>, to: &Path) -> io::Result<()>;
}

/// How a style makes sure that a half-done upload does not stay. An error: then nothing may be made.
pub type MakeSpool = fn(PathBuf) -> io::Result<Box<dyn Spool>>;

/// A name that no other upload of this service has.
pub fn name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("upload-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
