//! What goes wrong with a registry.

/// Why a registry could not be asked, or has refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Nobody answered in time, or the connection broke.
    #[error("{what}: {source}")]
    Unreachable {
        /// What was asked.
        what: String,
        /// What went wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It answered, and not with success.
    #[error("{what}: status {status}: {text}")]
    Refused {
        /// What was asked.
        what: String,
        /// The status of the answer.
        status: u16,
        /// Its first words.
        text: String,
    },
    /// It answered something that cannot be read.
    #[error("{what}: the answer cannot be read: {why}")]
    Malformed {
        /// What was asked.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

/// An instance that no registry could hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {value:?}: {why}")]
#[non_exhaustive]
pub struct InvalidInstance {
    /// Which field.
    pub field: &'static str,
    /// What it was to be.
    pub value: String,
    /// What is wrong with it.
    pub why: &'static str,
}
