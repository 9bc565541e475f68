//! One cleanup on record.

use std::num::NonZeroU64;
use std::panic::Location;
use std::sync::OnceLock;

use super::{RECORDER, is_on, turn};

/// How a registered cleanup ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finished {
    /// It ran and returned normally.
    Ran,
    /// It ran and returned an error.
    Failed,
    /// It ran and panicked.
    Panicked,
    /// It was begun and cut off at its deadline, or never begun because time had run out.
    Abandoned,
    /// It was disarmed: it shall not run.
    Disarmed,
}

/// Takes down registrations and payments. Called on the path of every recorded cleanup: it must
/// be quick, must not block, and must not panic.
pub trait Recorder: Sync {
    /// A cleanup is pending from now on. Returns a token for [`finished`](Recorder::finished), or
    /// `None` if there was no room to record it.
    fn registered(&self, name: &str, place: &Location<'_>) -> Option<NonZeroU64>;

    /// The cleanup behind `token` is not pending any more.
    fn finished(&self, token: NonZeroU64, how: Finished);
}

/// Sets the recorder of this process, once and for its lifetime.
///
/// # Errors
///
/// Gives `recorder` back when one is set already; that one stays.
pub fn set_recorder(recorder: &'static dyn Recorder) -> Result<(), &'static dyn Recorder> {
    SET.set(recorder)?;
    turn(RECORDER, true);
    Ok(())
}

static SET: OnceLock<&'static dyn Recorder> = OnceLock::new();

/// A cleanup on record. Dropped without [`finish`](Registration::finish) it stays pending for
/// ever, which is the truth about a cleanup that was leaked.
#[derive(Debug, Default)]
pub struct Registration(Option<NonZeroU64>);

impl Registration {
    /// Records that the cleanup `name`, registered at `place`, is pending.
    #[inline(always)]
    pub fn new(name: &str, place: &Location<'_>) -> Registration {
        if is_on(RECORDER) { Registration::on_record(name, place) } else { Registration(None) }
    }

    #[inline(always)]
    pub(crate) fn is_on_record(&self) -> bool {
        self.0.is_some()
    }

    #[cold]
    fn on_record(name: &str, place: &Location<'_>) -> Registration {
        Registration(SET.get().and_then(|recorder| recorder.registered(name, place)))
    }

    /// Records how it ended. The first call counts; later ones do nothing.
    #[inline(always)]
    pub fn finish(&mut self, how: Finished) {
        if let Some(token) = self.0.take() {
            tell(token, how);
        }
    }
}

#[cold]
fn tell(token: NonZeroU64, how: Finished) {
    if let Some(recorder) = SET.get() {
        recorder.finished(token, how);
    }
}
