//! Saying of a record that it shall not run, wherever it lies by now.

use super::{Disarm, Journal, Registered, settled};
use crate::error::JournalError;
use crate::log::Placed;
use crate::medium::Medium;
use crate::word::{State, StateWord};

impl Journal {
    /// Says that a record shall not run. When this returns [`Disarm::Disarmed`] it never will; where it
    /// was registered with [`Tier::Power`](crate::Tier::Power), not after a power cut either.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`]; [`JournalError::NotKept`]: it will not run unless the power is cut.
    #[inline]
    pub fn disarm(&self, registered: Registered) -> Result<Disarm, JournalError> {
        let disarmed = self.disarm_word(registered.placed, registered.live)?;
        if registered.power && disarmed == Disarm::Disarmed {
            self.commit
                .wait(|| self.medium().sync())
                .map_err(|source| JournalError::NotKept { path: self.path.clone(), source })?;
        }
        Ok(disarmed)
    }

    /// [`disarm`](Journal::disarm) for somebody who has only the id.
    ///
    /// # Errors
    ///
    /// [`JournalError::NoSuchRecord`], and as `disarm`.
    pub fn disarm_id(&self, id: u64) -> Result<Disarm, JournalError> {
        let entry = self.entry(id)?;
        let disarmed = self.disarm_here(id, entry.placed())?;
        if entry.power && disarmed == Disarm::Disarmed {
            self.sync()?;
        }
        Ok(disarmed)
    }

    #[inline]
    pub(super) fn disarm_word(&self, placed: Placed, live: u64) -> Result<Disarm, JournalError> {
        match self.log.change(placed, live, StateWord::new(State::Disarmed)) {
            Ok(Ok(())) => Ok(Disarm::Disarmed),
            Ok(Err(found)) => self.disarm_later(placed, found),
            Err(source) => Err(self.io("disarming", source)),
        }
    }

    #[cold]
    fn disarm_later(&self, placed: Placed, found: Option<StateWord>) -> Result<Disarm, JournalError> {
        match found.map(|word| word.state) {
            Some(State::Live | State::Amended) => self.disarm_here(placed.lsn, placed),
            Some(State::Moved) | None => self.disarm_moved(placed.lsn),
            Some(state) => Ok(settled(state)),
        }
    }

    fn disarm_here(&self, id: u64, placed: Placed) -> Result<Disarm, JournalError> {
        loop {
            let Some((state, word)) = self.state(placed)? else { return self.disarm_moved(id) };
            match state.state {
                State::Live | State::Amended => {
                    if self.change(placed, word, StateWord::new(State::Disarmed))? {
                        return Ok(Disarm::Disarmed);
                    }
                }
                State::Moved => return self.disarm_moved(id),
                state => return Ok(settled(state)),
            }
        }
    }

    /// It was moved, or its place is another record's by now: the newest copy counts.
    fn disarm_moved(&self, id: u64) -> Result<Disarm, JournalError> {
        if let Some(placed) = self.log.forwarded(id)
            && self.committed(placed.lsn)? == Some(placed)
        {
            return self.disarm_here(id, placed);
        }
        let scan = self.scan()?;
        match scan.find(id) {
            Some(entry) if entry.state.is_untouched() => {
                if self.change(entry.placed(), entry.word, StateWord::new(State::Disarmed))? {
                    return Ok(Disarm::Disarmed);
                }
                self.disarm_moved(id)
            }
            Some(entry) => Ok(settled(entry.state)),
            None => Ok(Disarm::Already),
        }
    }
}
