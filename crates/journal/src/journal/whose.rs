//! Whose a journal is: who owes, who waits for it, who pays, how it ended. Words of the file that change.

use super::{Ended, Journal, ProcessId};
use crate::error::JournalError;
use crate::layout::control;
use crate::medium::Medium;
use crate::word::{Phase, PhaseWord};

impl Journal {
    /// Whether it takes records.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn phase(&self) -> Result<Phase, JournalError> {
        Ok(self.phase_word()?.phase)
    }

    #[inline]
    pub(super) fn phase_word(&self) -> Result<PhaseWord, JournalError> {
        let word = self.medium().load(control::PHASE).map_err(|e| self.io("reading it", e))?;
        Ok(PhaseWord::decode(word))
    }

    /// The process whose death ends the run.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn owner(&self) -> Result<ProcessId, JournalError> {
        self.process(control::OWNER)
    }

    /// Names the process whose death ends the run. Of another than before it is not known whether it
    /// [holds the lock](Journal::owner_holds_lock).
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn set_owner(&self, owner: ProcessId) -> Result<(), JournalError> {
        if self.owner()?.pid != owner.pid {
            self.set_owner_holds_lock(false)?;
        }
        self.set_process(control::OWNER, owner)
    }

    /// Whether the owner itself holds the lock that says to other PID namespaces that it lives: only then is
    /// a free lock a proof of its death.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn owner_holds_lock(&self) -> Result<bool, JournalError> {
        let word = self.medium().load(control::OWNER_HOLDS).map_err(|e| self.io("reading it", e))?;
        Ok(word == 1)
    }

    /// Says whether the owner itself holds that lock. By the owner, once it does.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn set_owner_holds_lock(&self, holds: bool) -> Result<(), JournalError> {
        let told = self.medium().store(control::OWNER_HOLDS, u64::from(holds));
        told.map_err(|source| self.io("writing to it", source))
    }

    /// The process that waits for the owner and pays after it; pid 0 where there is none.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn wrapper(&self) -> Result<ProcessId, JournalError> {
        self.process(control::WRAPPER)
    }

    /// Names the process that waits for the owner.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn set_wrapper(&self, wrapper: ProcessId) -> Result<(), JournalError> {
        self.set_process(control::WRAPPER, wrapper)
    }

    /// Who last took the run over.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn payer(&self) -> Result<ProcessId, JournalError> {
        self.process(control::PAYER)
    }

    /// The PID namespace that the pid of the [payer](Journal::payer) is of; 0 when it has not said so.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn payer_namespace(&self) -> Result<u64, JournalError> {
        self.medium().load(control::PAYER_NAMESPACE).map_err(|source| self.io("reading it", source))
    }

    /// Says in which PID namespace the payer is: who waits for it there can tell when it is dead.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn set_payer_namespace(&self, namespace: u64) -> Result<(), JournalError> {
        let told = self.medium().store(control::PAYER_NAMESPACE, namespace);
        told.map_err(|source| self.io("writing to it", source))
    }

    /// How the owner ended, as far as somebody has noted it.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn ended(&self) -> Result<Ended, JournalError> {
        let word = self.medium().load(control::ENDED).map_err(|e| self.io("reading it", e))?;
        // Masked to the width of the field.
        let number = (word & 0xff) as u8;
        Ok(match word >> 8 {
            1 => Ended::Exited(number),
            2 => Ended::Signalled(number),
            _ => Ended::Unknown,
        })
    }

    /// Notes how the owner ended.
    ///
    /// # Errors
    ///
    /// [`JournalError::Io`].
    pub fn set_ended(&self, ended: Ended) -> Result<(), JournalError> {
        let word = match ended {
            Ended::Unknown => 0,
            Ended::Exited(code) => 1 << 8 | u64::from(code),
            Ended::Signalled(signal) => 2 << 8 | u64::from(signal),
        };
        self.medium().store(control::ENDED, word).map_err(|source| self.io("writing to it", source))
    }

    fn process(&self, at: usize) -> Result<ProcessId, JournalError> {
        let read = |at| self.medium().load(at).map_err(|source| self.io("reading it", source));
        loop {
            let (pid, start) = (read(at)?, read(at + 1)?);
            // Another may have been named in between: the pid of one and the start of the other are nobody's.
            if read(at)? == pid {
                // A pid is 32 bits.
                return Ok(ProcessId { pid: pid as u32, start });
            }
        }
    }

    pub(super) fn set_process(&self, at: usize, process: ProcessId) -> Result<(), JournalError> {
        let write =
            |at, word| self.medium().store(at, word).map_err(|source| self.io("writing to it", source));
        // A pid with the start of another would be nobody; with none it is whoever has the pid.
        write(at + 1, 0)?;
        write(at, u64::from(process.pid))?;
        write(at + 1, process.start)
    }
}
