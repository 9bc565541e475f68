//! Secrets, by reference: a journal is read by backups, and by whoever gets the disk.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::action::ActionError;

/// Where a secret is, to be looked up by whoever runs the action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretRef {
    /// In this variable of the payer's environment. A guardian has that of its owner.
    Env(String),
    /// In this file, without the line end.
    File(PathBuf),
}

/// A secret that was looked up. It cannot be written to a journal: it does not serialize.
///
/// ```compile_fail
/// # use epilogue_guardian::Secret;
/// #[derive(serde::Serialize)]
/// struct Login { password: Secret }
/// ```
pub struct Secret(String);

impl SecretRef {
    /// Looks it up.
    ///
    /// # Errors
    ///
    /// When it is not there: tried again later, in another environment perhaps.
    pub fn resolve(&self) -> Result<Secret, ActionError> {
        match self {
            SecretRef::Env(name) => std::env::var(name)
                .map(Secret)
                .map_err(|error| ActionError::retry(format!("the secret in ${name}: {error}"))),
            SecretRef::File(path) => std::fs::read_to_string(path)
                .map(|text| Secret(text.trim_end_matches(['\r', '\n']).to_owned()))
                .map_err(|error| ActionError::retry(format!("the secret in {}: {error}", path.display()))),
        }
    }
}

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}
