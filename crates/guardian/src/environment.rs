//! The environment of a deferred command: names and a hash go to the journal, values to memory only.
//!
//! What a command does may depend on any variable: `kubectl delete` with another `KUBECONFIG` deletes
//! something else. So it runs with the environment in which it was deferred, or not at all.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::home;
use crate::os::effective_uid;

/// Variables that differ between any two commands of a shell, and mean nothing.
const IGNORED: [&str; 6] = ["_", "SHLVL", "PWD", "OLDPWD", "EPILOGUE_SCOPE", "EPILOGUE_OUTER"];

/// An environment as it is on record.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Captured {
    /// Of names and values.
    pub hash: String,
    /// The names alone, for whoever has to find out what is missing.
    pub names: Vec<String>,
    /// Values that were to be stored durably: they are in the journal, as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub stored: BTreeMap<String, String>,
}

type Variables = BTreeMap<OsString, OsString>;

/// The environment of this process, but for what means nothing.
fn current() -> Variables {
    std::env::vars_os().filter(|(name, _)| !IGNORED.iter().any(|ignored| name == ignored)).collect()
}

fn hash(variables: &Variables) -> String {
    // Not a guard against anyone: it tells two environments of one user apart.
    let mut hasher = DefaultHasher::new();
    for (name, value) in variables {
        hasher.write(name.as_bytes());
        hasher.write(b"=");
        hasher.write(value.as_bytes());
        hasher.write(b"\0");
    }
    format!("{:016x}", hasher.finish())
}

/// The hash of this process's environment.
pub fn current_hash() -> String {
    hash(&current())
}

/// Records this process's environment for a run: the values go to a private file in memory.
///
/// # Errors
///
/// When `store` names a variable that is not set, or whose value is not UTF-8. That the values cannot
/// be kept in memory is no error: the command is then parked if they are needed.
pub fn capture(run: &str, store: &[String]) -> Result<Captured, String> {
    let variables = current();
    let mut stored = BTreeMap::new();
    for name in store {
        let value = std::env::var(name).map_err(|error| format!("--env {name}: {error}"))?;
        stored.insert(name.clone(), value);
    }
    let hash = hash(&variables);
    let names = variables.keys().map(|name| name.to_string_lossy().into_owned()).collect();
    let _ = keep(run, &hash, &variables);
    Ok(Captured { hash, names, stored })
}

/// The environment for a command that is to run now. `Err`: why it must not.
///
/// # Errors
///
/// When its values are gone and it was deferred with others than the run began with.
pub(crate) fn recall(run: &str, captured: &Captured, at_start: Option<&str>) -> Result<Variables, String> {
    if let Some(variables) = kept(run, &captured.hash) {
        return Ok(variables);
    }
    let here = current();
    if hash(&here) == captured.hash {
        return Ok(here);
    }
    if captured.names.iter().all(|name| captured.stored.contains_key(name) || is_usual(name)) {
        let mut variables = here;
        variables.extend(captured.stored.iter().map(|(name, value)| (name.into(), value.into())));
        return Ok(variables);
    }
    if at_start == Some(captured.hash.as_str()) {
        return Ok(here);
    }
    let missing: Vec<&str> = captured
        .names
        .iter()
        .filter(|name| !captured.stored.contains_key(*name) && !is_usual(name))
        .map(String::as_str)
        .take(8)
        .collect();
    Err(format!(
        "its environment is gone (a reboot?), and it was deferred with another than its scope began with; it had {}",
        missing.join(", ")
    ))
}

/// Variables that every login sets alike.
fn is_usual(name: &str) -> bool {
    ["HOME", "USER", "LOGNAME", "PATH", "SHELL", "LANG", "TERM", "HOSTNAME", "MAIL"].contains(&name)
        || name.starts_with("LC_")
}

/// Forgets the values of a run.
pub(crate) fn forget(run: &str) {
    for place in places() {
        let _ = fs::remove_dir_all(place.join(run));
    }
}

fn keep(run: &str, hash: &str, variables: &Variables) -> io::Result<()> {
    let mut why = io::Error::from(io::ErrorKind::NotFound);
    for place in places() {
        match keep_in(&place.join(run), hash, variables) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => why = error,
            _ => return Ok(()),
        }
    }
    Err(why)
}

fn keep_in(dir: &std::path::Path, hash: &str, variables: &Variables) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // The place itself as well: whoever had made it before us could put another directory there.
    for dir in dir.parent().into_iter().chain([dir]) {
        home::trusted(dir).map_err(io::Error::other)?;
    }
    let path = dir.join(hash);
    if path.exists() {
        return Ok(());
    }
    // Written whole under another name first: two commands may defer at the same time.
    let draft = dir.join(format!(".{hash}-{}", crate::run::unique()));
    let mut bytes = Vec::new();
    for (name, value) in variables {
        bytes.extend(name.as_bytes());
        bytes.push(b'=');
        bytes.extend(value.as_bytes());
        bytes.push(0);
    }
    crate::run::private(&draft)?.write_all(&bytes)?;
    fs::rename(draft, path)
}

fn kept(run: &str, hash: &str) -> Option<Variables> {
    let dir = places().into_iter().map(|place| place.join(run)).find(|dir| dir.join(hash).exists())?;
    for dir in dir.parent().into_iter().chain([dir.as_path()]) {
        home::trusted(dir).ok()?;
    }
    let bytes = fs::read(dir.join(hash)).ok()?;
    let pairs = bytes.split(|byte| *byte == 0).filter(|pair| !pair.is_empty());
    let variables: Option<Variables> = pairs
        .map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            Some((OsString::from_vec(pair[..at].to_vec()), OsString::from_vec(pair[at + 1..].to_vec())))
        })
        .collect();
    // What it says must be what was deferred.
    variables.filter(|variables| self::hash(variables) == hash)
}

/// Directories in memory: values may be secrets, and must never reach a disk.
fn places() -> Vec<PathBuf> {
    let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let user = format!("/run/user/{}", effective_uid());
    let mut places: Vec<PathBuf> = Vec::new();
    for place in [runtime, Some(user.into())].into_iter().flatten() {
        if in_memory(&place) {
            places.push(place.join("epilogue-env"));
        }
    }
    if in_memory("/dev/shm".as_ref()) {
        places.push(format!("/dev/shm/epilogue-env-{}", effective_uid()).into());
    }
    places
}

/// Whether what is written here is gone when the machine goes down.
pub(crate) fn in_memory(path: &std::path::Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let of = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        Some((PathBuf::from(fields.next()?), fields.next()?.to_owned()))
    };
    let on = mounts.lines().filter_map(of).filter(|(at, _)| path.starts_with(at));
    // The last one mounted over the longest path is the one in sight.
    on.max_by_key(|(at, _)| at.components().count())
        .is_some_and(|(_, kind)| kind == "tmpfs" || kind == "ramfs")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn values_are_kept_only_where_nobody_else_can_put_others() {
        let scratch = std::env::temp_dir().join(format!("epilogue-environment-{}", std::process::id()));
        let _ = fs::remove_dir_all(&scratch);
        let variables = Variables::from([("TOKEN".into(), "secret".into())]);
        let place = scratch.join("place");
        keep_in(&place.join("run"), "hash", &variables).unwrap();
        assert_eq!(fs::metadata(place.join("run/hash")).unwrap().permissions().mode() & 0o777, 0o600);
        for (dir, mode) in [("place", 0o777), ("place", 0o720), ("place/run", 0o702)] {
            fs::set_permissions(scratch.join(dir), fs::Permissions::from_mode(mode)).unwrap();
            let refused = keep_in(&place.join("run"), "another", &variables);
            assert!(refused.is_err() && !place.join("run/another").exists(), "{dir} {mode:o}");
            fs::set_permissions(scratch.join(dir), fs::Permissions::from_mode(0o700)).unwrap();
        }
        fs::remove_dir_all(&place).unwrap();
        fs::create_dir(scratch.join("elsewhere")).unwrap();
        std::os::unix::fs::symlink(scratch.join("elsewhere"), &place).unwrap();
        assert!(keep_in(&place.join("run"), "hash", &variables).is_err(), "a link that somebody may turn");
        fs::remove_dir_all(&scratch).unwrap();
    }
}
