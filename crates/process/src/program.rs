//! The file that this program was started from: where the next generation of it is looked for.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// How this program was started.
pub(crate) struct Program {
    /// Its file by the name that it was started under, from the root, links and all: what that leads to now may be a
    /// newer one.
    pub(crate) file: PathBuf,
    /// Where it was started, if that can be known.
    pub(crate) directory: Option<PathBuf>,
    /// The environment that it was started with.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

/// Asked for the first time before anything changes the working directory or `PATH`.
pub(crate) fn program() -> &'static Program {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let directory = std::env::current_dir().ok();
        let named = std::env::args_os().next().unwrap_or_default();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let running = std::env::current_exe().ok();
        let is_it = |file: &Path| running.as_ref().is_none_or(|running| same(file, running));
        let file = candidates(&named, directory.as_deref(), &path).into_iter().find(|file| is_it(file));
        // It was given another name than its own, or its file was replaced before anybody asked.
        let file = file.or_else(|| running.as_deref().map(replaced)).unwrap_or_else(|| named.into());
        Program { file, directory, environment: std::env::vars_os().collect() }
    })
}

/// Where a program of this name may be: as the shell looks for it.
fn candidates(named: &OsStr, directory: Option<&Path>, path: &OsStr) -> Vec<PathBuf> {
    let from_here = |file: &Path| directory.map_or_else(|| file.to_owned(), |directory| directory.join(file));
    if named.as_encoded_bytes().contains(&b'/') {
        return vec![from_here(Path::new(named))];
    }
    if named.is_empty() {
        return Vec::new();
    }
    std::env::split_paths(path).map(|directory| from_here(&directory.join(named))).collect()
}

fn same(one: &Path, other: &Path) -> bool {
    let identity = |file: &Path| std::fs::metadata(file).map(|file| (file.dev(), file.ino())).ok();
    identity(one).is_some_and(|one| Some(one) == identity(other))
}

/// The kernel names a file that was replaced like this.
fn replaced(exe: &Path) -> PathBuf {
    let text = exe.to_string_lossy();
    text.strip_suffix(" (deleted)").map_or_else(|| exe.to_owned(), PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_looked_for_as_the_shell_does() {
        let found =
            |named: &str| candidates(OsStr::new(named), Some(Path::new("/srv")), OsStr::new("/bin:rel"));
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(found("/opt/app"), paths(&["/opt/app"]));
        assert_eq!(found("./app"), paths(&["/srv/./app"]));
        assert_eq!(found("current/app"), paths(&["/srv/current/app"]));
        assert_eq!(found("app"), paths(&["/bin/app", "/srv/rel/app"]));
        assert_eq!(found(""), paths(&[]));
        assert_eq!(replaced(Path::new("/opt/app (deleted)")), Path::new("/opt/app"));
    }

    #[test]
    fn this_very_program_is_found() {
        assert!(same(&program().file, &std::env::current_exe().unwrap()));
        assert!(program().file.is_absolute());
    }
}
