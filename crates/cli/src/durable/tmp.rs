//! `epilogue tmp`.

use std::fs::{DirBuilder, OpenOptions};
use std::hash::{BuildHasher, Hasher};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use epilogue_guardian::{Call, RemoveFile, RemoveTree};
use epilogue_journal::{JournalError, Phase};

use super::find::{self, Which};
use super::register::register;
use super::status::{CANNOT_CREATE, Failure};

/// Make a temporary file or directory that the scope removes: on record first, then created
///
/// Prints its path. With 'd=$(mktemp -d); epilogue defer -- rm -rf "$d"' a kill between the two leaves the
/// directory; with this none does.
#[derive(Debug, Parser)]
pub(crate) struct Args {
    /// A directory
    #[arg(short, long)]
    directory: bool,
    /// What its name ends in
    #[arg(long, value_name = "SUFFIX", default_value = "")]
    suffix: String,
    /// Where it is made [default: TMPDIR, or /tmp]
    #[arg(short = 't', long = "tmpdir", value_name = "DIR")]
    parent: Option<PathBuf>,
    /// Which scope: outer, root, or the value of EPILOGUE_SCOPE somewhere
    #[arg(long, value_name = "SCOPE", default_value = "inner")]
    scope: Which,
}

/// Runs the command.
pub(crate) fn main(args: Args) -> ExitCode {
    super::status::code(tmp(&args).map(|()| 0))
}

fn tmp(args: &Args) -> Result<(), Failure> {
    if args.suffix.contains('/') {
        return Err(Failure::usage(format!("--suffix {:?}: it must not contain a slash", args.suffix)));
    }
    let (run, scope) = find::scope(&args.scope)?;
    // An empty TMPDIR means none, as for mktemp.
    let usual = || Some(std::env::temp_dir()).filter(|dir| !dir.as_os_str().is_empty());
    let parent = args.parent.clone().or_else(usual).unwrap_or_else(|| "/tmp".into());
    let failed =
        |error: std::io::Error| Failure::new(CANNOT_CREATE, format!("{}: {error}", parent.display()));
    let parent = std::fs::canonicalize(&parent).map_err(failed)?;
    let random = std::hash::RandomState::new().build_hasher().finish();
    let path = parent.join(format!("epilogue-{}-{random:016x}{}", run.short(), args.suffix));
    let call = if args.directory {
        RemoveTree::new(&path).and_then(|action| Ok(Call::of(&action)?))
    } else {
        RemoveFile::new(&path).and_then(|action| Ok(Call::of(&action)?))
    };
    let id = register(&run, scope, &call.map_err(failed)?)?;
    if let Err(error) = create(&path, args.directory) {
        let _ = run.journal.disarm_id(id);
        return Err(failed(error));
    }
    // A payer that has come between the record and the directory found nothing to remove. One that comes
    // from now on finds it.
    if run.journal.phase()? != Phase::Open {
        remove(&path, args.directory).map_err(failed)?;
        return Err(JournalError::TooLate.into());
    }
    super::print(path.display());
    Ok(())
}

fn remove(path: &Path, directory: bool) -> std::io::Result<()> {
    let removed = if directory { std::fs::remove_dir(path) } else { std::fs::remove_file(path) };
    match removed {
        // By the payer, after all.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

fn create(path: &Path, directory: bool) -> std::io::Result<()> {
    if directory {
        DirBuilder::new().mode(0o700).create(path)
    } else {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
    }
}
