//! The right to pay a journal, and what came of each record; and an operator's word.

use super::{Generation, Journal, Paid, ProcessId};
use crate::error::JournalError;
use crate::layout::control;
use crate::medium::Medium;
use crate::scan::Entry;
use crate::word::{Phase, PhaseWord, State, StateWord};

impl Journal {
    /// Takes the run over for payment: whoever paid it before is fenced off, and registers nothing.
    /// The caller must hold the run's lock, or know that its holder is dead.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn take_over(&self, payer: ProcessId) -> Result<Generation, JournalError> {
        // A pid means nothing without its namespace: until that is told, nobody takes this payer for dead.
        self.set_payer_namespace(0)?;
        self.set_process(control::PAYER, payer)?;
        loop {
            let word = self.medium().load(control::PHASE).map_err(|e| self.io("reading it", e))?;
            let generation = (PhaseWord::decode(word).generation + 1) & PhaseWord::GENERATION_MAX;
            let next = PhaseWord { phase: Phase::Paying, generation };
            let taken = self
                .medium()
                .exchange(control::PHASE, word, next.encode())
                .map_err(|source| self.io("taking it over", source))?;
            if taken.is_ok() {
                return Ok(Generation(next.generation));
            }
        }
    }

    /// The generation in force, for a process that pays what it owes itself while it lives.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn generation(&self) -> Result<Generation, JournalError> {
        Ok(Generation(self.phase_word()?.generation))
    }

    /// Notes that a record is about to be run, before it is. Returns how often it was begun, this time
    /// included; `None` when somebody else has settled it.
    ///
    /// # Errors
    ///
    /// [`JournalError::Fenced`], [`JournalError::NoSuchRecord`], [`JournalError::Io`].
    pub fn begin(&self, generation: Generation, id: u64) -> Result<Option<u8>, JournalError> {
        let entry = self.entry(id)?;
        self.begin_entry(generation, &entry)
    }

    /// [`begin`](Journal::begin) for a record that was just read.
    ///
    /// # Errors
    ///
    /// As `begin`.
    pub fn begin_entry(&self, generation: Generation, entry: &Entry) -> Result<Option<u8>, JournalError> {
        self.fence(generation)?;
        let Some((state, word)) = self.state(entry.placed())? else { return Ok(None) };
        let mine = generation.0 as u16;
        let theirs = state.state == State::Running && state.generation == mine;
        let owed = state.state.is_open() && state.state != State::Parked;
        if !(owed || state.state == State::Copy) || theirs {
            return Ok(None);
        }
        let attempts = state.attempts.saturating_add(1);
        let running = StateWord { state: State::Running, attempts, generation: mine };
        let changed = self.change(entry.placed(), word, running)?;
        Ok(changed.then_some(attempts))
    }

    /// Notes what came of a record that was begun.
    ///
    /// # Errors
    ///
    /// [`JournalError::Fenced`]: another payer has it, and this result counts no more.
    pub fn finish(&self, generation: Generation, id: u64, paid: Paid) -> Result<(), JournalError> {
        self.fence(generation)?;
        let entry = self.entry(id)?;
        self.finish_entry(generation, &entry, paid)
    }

    /// [`finish`](Journal::finish) for a record that was read before.
    ///
    /// # Errors
    ///
    /// As `finish`.
    pub fn finish_entry(
        &self,
        generation: Generation,
        entry: &Entry,
        paid: Paid,
    ) -> Result<(), JournalError> {
        self.fence(generation)?;
        let mine = generation.0 as u16;
        if let Some((state, word)) = self.state(entry.placed())?
            && (state.state, state.generation) == (State::Running, mine)
            && self.change(entry.placed(), word, StateWord { state: paid.state(), ..state })?
        {
            if paid == Paid::Done {
                self.log.forget(entry.id);
            }
            return Ok(());
        }
        Err(JournalError::Fenced { ours: generation.0, theirs: self.phase_word()?.generation })
    }

    /// Puts a record aside for an operator, without having run it. Returns whether it was still owed.
    ///
    /// # Errors
    ///
    /// [`JournalError::Fenced`], [`JournalError::Io`].
    pub fn park(&self, generation: Generation, entry: &Entry) -> Result<bool, JournalError> {
        self.fence(generation)?;
        let Some((state, word)) = self.state(entry.placed())? else { return Ok(false) };
        if !state.state.is_open() || state.state == State::Parked {
            return Ok(false);
        }
        let parked = StateWord { state: State::Parked, generation: generation.0 as u16, ..state };
        self.change(entry.placed(), word, parked)
    }

    /// An operator's word: what was parked or has failed is owed again, with no attempt counted.
    ///
    /// # Errors
    ///
    /// [`JournalError::NoSuchRecord`], [`JournalError::Io`].
    pub fn retry(&self, id: u64) -> Result<bool, JournalError> {
        self.settle(id, State::Live, |state| matches!(state, State::Parked | State::Failed))
    }

    /// An operator's word: it shall never run. Returns whether it was owed or kept.
    ///
    /// # Errors
    ///
    /// [`JournalError::NoSuchRecord`], [`JournalError::Io`].
    pub fn drop_record(&self, id: u64) -> Result<bool, JournalError> {
        self.settle(id, State::Dropped, |state| {
            state.is_untouched() || matches!(state, State::Parked | State::Failed)
        })
    }

    fn settle(&self, id: u64, to: State, from: impl Fn(State) -> bool) -> Result<bool, JournalError> {
        let entry = self.entry(id)?;
        let Some((state, word)) = self.state(entry.placed())? else { return Ok(false) };
        Ok(from(state.state) && self.change(entry.placed(), word, StateWord::new(to))?)
    }

    /// Ends the run: everything is paid or kept. Returns `false` when another payer has taken over.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn close(&self, generation: Generation) -> Result<bool, JournalError> {
        let paying = PhaseWord { phase: Phase::Paying, generation: generation.0 };
        let closed = PhaseWord { phase: Phase::Closed, ..paying };
        let done = self.medium().exchange(control::PHASE, paying.encode(), closed.encode());
        Ok(done.map_err(|source| self.io("closing it", source))?.is_ok())
    }

    fn fence(&self, generation: Generation) -> Result<(), JournalError> {
        let now = self.phase_word()?.generation;
        if now == generation.0 {
            Ok(())
        } else {
            Err(JournalError::Fenced { ours: generation.0, theirs: now })
        }
    }
}
