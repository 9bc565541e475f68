//! Running a command: the one that was meant, from where it was meant, with the environment it had.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use epilogue_journal::Ended;
use serde::{Deserialize, Serialize};

use crate::action::{Action, ActionCx, ActionError};
use crate::child;
use crate::environment::{self, Captured};

/// Runs a command, without a shell between.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCommand {
    /// The executable, as an absolute path.
    pub program: PathBuf,
    /// Its arguments; the first is its name.
    pub argv: Vec<String>,
    /// Where it runs. `None`: wherever its payer is, which is only right for what does not care.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<Directory>,
    /// Permission bits that its files do not get.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub umask: Option<u32>,
    /// Its environment. `None`: that of its payer.
    #[serde(rename = "env", default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Captured>,
}

/// A directory, and which one it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directory {
    path: PathBuf,
    dev: u64,
    ino: u64,
}

impl Directory {
    /// The present working directory.
    ///
    /// # Errors
    ///
    /// When it has been removed.
    pub fn current() -> io::Result<Directory> {
        let path = std::env::current_dir()?;
        let found = fs::metadata(&path)?;
        Ok(Directory { path, dev: found.dev(), ino: found.ino() })
    }

    fn check(&self) -> Result<(), ActionError> {
        let parked = |why: &str| ActionError::park(format!("its directory {} {why}", self.path.display()));
        let found = fs::metadata(&self.path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => parked("is gone"),
            _ => error.into(),
        })?;
        if (found.dev(), found.ino()) == (self.dev, self.ino) {
            Ok(())
        } else {
            Err(parked("is another one now"))
        }
    }
}

impl RunCommand {
    /// A command with these arguments, of which the first is looked up on the PATH now: what is found
    /// there later may be something else.
    ///
    /// # Errors
    ///
    /// When there is no such command.
    pub fn new<I, S>(argv: I) -> io::Result<RunCommand>
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        let argv: Vec<String> = argv.into_iter().map(Into::into).collect();
        let Some(name) = argv.first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command was given"));
        };
        let program = resolve(name)?;
        Ok(RunCommand { program, argv, cwd: None, umask: None, environment: None })
    }

    /// Runs where the caller is now, with its umask.
    ///
    /// # Errors
    ///
    /// When the working directory has been removed.
    pub fn here(mut self) -> io::Result<RunCommand> {
        self.cwd = Some(Directory::current()?);
        self.umask = Some(crate::os::umask());
        Ok(self)
    }

    /// With this environment, or not at all.
    pub fn environment(mut self, captured: Captured) -> RunCommand {
        self.environment = Some(captured);
        self
    }

    fn check_program(&self) -> Result<(), ActionError> {
        match fs::metadata(&self.program) {
            Ok(found) if found.mode() & 0o002 != 0 => {
                Err(ActionError::park(format!("everyone can write to {}", self.program.display())))
            }
            _ => Ok(()),
        }
    }
}

/// Finds an executable as a shell would.
fn resolve(name: &str) -> io::Result<PathBuf> {
    let executable = |path: &Path| {
        fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    if name.contains('/') {
        let path = std::path::absolute(name)?;
        if !executable(&path) {
            let why = format!("{name} is no executable file");
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        return Ok(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let found = std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| executable(path));
    let found = found.and_then(|path| std::path::absolute(path).ok());
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no command {name} on the PATH")))
}

impl Action for RunCommand {
    const NAME: &'static str = "epilogue.command";

    fn run(&self, cx: &ActionCx) -> Result<(), ActionError> {
        let outcome = child::run(self.command(cx)?, self.umask, cx.deadline, cx.output);
        *cx.said.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = outcome.output;
        outcome.result
    }

    fn describe(&self) -> String {
        let quoted = self.argv.iter().map(|word| {
            let plain = !word.is_empty()
                && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&byte));
            if plain { word.clone() } else { format!("'{}'", word.replace('\'', r"'\''")) }
        });
        quoted.collect::<Vec<_>>().join(" ")
    }
}

impl RunCommand {
    fn command(&self, cx: &ActionCx) -> Result<Command, ActionError> {
        use std::os::unix::process::CommandExt;
        self.check_program()?;
        let mut command = Command::new(&self.program);
        if let Some((name, arguments)) = self.argv.split_first() {
            command.arg0(name).args(arguments);
        }
        if let Some(cwd) = &self.cwd {
            cwd.check()?;
            command.current_dir(&cwd.path);
            command.env("PWD", &cwd.path);
        }
        if let Some(captured) = &self.environment {
            let variables = environment::recall(&cx.journal, captured, cx.environment.as_deref())
                .map_err(ActionError::park)?;
            let pwd = self.cwd.as_ref().map(|cwd| &cwd.path);
            command.env_clear().envs(variables).envs(pwd.map(|path| ("PWD", path)));
        }
        for (name, value) in about(cx) {
            command.env(name, value);
        }
        command.env_remove("EPILOGUE_SCOPE");
        Ok(command)
    }
}

/// The variable by which a cleanup knows its key, and what it starts is known as its.
pub(crate) const KEY_ENV: &str = "EPILOGUE_KEY";

/// What a cleanup is told.
fn about(cx: &ActionCx) -> Vec<(&'static str, String)> {
    let (how, code) = match cx.ended {
        Ended::Exited(0) => ("ok", Some(0)),
        Ended::Exited(code) => ("failed", Some(code)),
        Ended::Signalled(signal) => ("signalled", Some(signal.saturating_add(128))),
        _ => ("lost", None),
    };
    let mut about = vec![
        ("EPILOGUE_EXIT", how.to_owned()),
        ("EPILOGUE_ATTEMPT", cx.attempt.to_string()),
        (KEY_ENV, cx.key.clone()),
    ];
    about.extend(code.map(|code| ("EPILOGUE_EXIT_CODE", code.to_string())));
    about
}
