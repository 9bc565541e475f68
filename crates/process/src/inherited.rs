//! Listeners that were open when the program began: from the generation before it, or from systemd.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use crate::os;
use crate::os::descriptors;

/// Tells a generation what the one before it has left open: whose child it is, where it says that it is ready, and
/// the listeners by their names, as in `4711;9;http=7;admin=8`.
pub(crate) const HANDED_ENV: &str = "EPILOGUE_LISTENERS";

/// What nobody has taken so far.
struct Inherited {
    by_name: BTreeMap<String, OwnedFd>,
    /// Of systemd, where one that is the only one needs no name.
    of_systemd: bool,
    /// The generation before waits for a word on it.
    ready: Option<io::PipeWriter>,
    /// The names that were taken.
    taken: Vec<String>,
    from_pid: u32,
}

static INHERITED: Mutex<Option<Inherited>> = Mutex::new(None);

/// The listener of this name, or at this address.
pub(crate) fn take(name: &str, wanted: &[SocketAddr]) -> io::Result<Option<TcpListener>> {
    let mut inherited = inherited();
    let Some(all) = inherited.as_mut() else { return Ok(None) };
    let by_address = |fd: &OwnedFd| address(fd).is_some_and(|at| wanted.contains(&at));
    let key = match all.by_name.contains_key(name) {
        true => Some(name.to_owned()),
        false if all.of_systemd => {
            let alone = all.by_name.len() == 1;
            let there = all.by_name.iter().find(|(_, fd)| alone || by_address(fd));
            there.map(|(key, _)| key.clone())
        }
        false => None,
    };
    let Some((key, fd)) = key.and_then(|key| all.by_name.remove_entry(&key)) else { return Ok(None) };
    all.taken.push(key);
    let wrong = |error: io::Error| {
        io::Error::new(error.kind(), format!("the listener {name} that was left open: {error}"))
    };
    descriptors::into_listener(fd).map(Some).map_err(wrong)
}

/// Everything has started: the generation before may go, and what nobody has taken is closed.
pub(crate) fn ready() {
    let Some(all) = inherited().take() else { return };
    for name in all.by_name.keys() {
        os::say(&format!(
            "epilogue: the listener {name} was left open for this program, which closes it: it took others"
        ));
    }
    if let Some(mut ready) = all.ready {
        // One that is gone waits for nothing.
        let _ = ready.write_all(word(&all.taken).as_bytes());
    }
}

/// What a generation that is ready says, with what it has taken: a line, whose end is the end of the word.
fn word(taken: &[String]) -> String {
    format!("ready;{}\n", taken.join(";"))
}

/// What the next generation has taken, if it says that it is ready. Returns at the end of its line, or when all
/// that hold the pipe have gone.
pub(crate) fn read_word(ready: io::PipeReader) -> Option<Vec<String>> {
    let mut line = String::new();
    io::BufReader::new(ready).read_line(&mut line).ok()?;
    let taken = line.strip_suffix('\n')?.strip_prefix("ready;")?;
    Some(taken.split(';').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// Whether the generation of this program before this one still serves, and waits for this one to be
/// [ready](crate::App::ready): what both of them share, such as an entry in a registry, is not this one's to take away.
pub fn is_taking_over() -> bool {
    let parent = std::os::unix::process::parent_id();
    inherited().as_ref().is_some_and(|all| all.ready.is_some() && all.from_pid == parent)
}

/// Takes over what was left open, before anything else is started that could keep it open.
pub(crate) fn look_now() {
    drop(inherited());
}

/// What is left open for this program, and was not taken so far: name and address.
pub(crate) fn not_taken() -> Vec<String> {
    let inherited = inherited();
    let all = inherited.as_ref().map(|all| all.by_name.iter()).into_iter().flatten();
    let told = |(name, fd): (&String, &OwnedFd)| {
        let address = address(fd).map_or_else(|| "?".to_owned(), |address| address.to_string());
        format!("{name} at {address}")
    };
    all.map(told).collect()
}

fn address(fd: &OwnedFd) -> Option<SocketAddr> {
    fd.try_clone().and_then(descriptors::into_listener).and_then(|listener| listener.local_addr()).ok()
}

fn inherited() -> MutexGuard<'static, Option<Inherited>> {
    static LOOKED: Once = Once::new();
    let mut inherited = INHERITED.lock().unwrap_or_else(PoisonError::into_inner);
    LOOKED.call_once(|| *inherited = look());
    inherited
}

fn look() -> Option<Inherited> {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let handed = env(HANDED_ENV).and_then(|text| Some((parse_handed(&text)?, text)));
    if let Some((handed, text)) = handed
        && handed.from_pid == std::os::unix::process::parent_id()
    {
        os::signs_with_its_pid();
        let ready = taken("the pipe", handed.ready);
        let by_name = handed.listeners.into_iter().filter_map(|(name, fd)| Some((name, taken(&text, fd)?)));
        let (by_name, taken) = (by_name.collect(), Vec::new());
        return Some(Inherited {
            by_name,
            of_systemd: false,
            ready: ready.map(Into::into),
            taken,
            from_pid: handed.from_pid,
        });
    }
    let activated = parse_activated(&env, std::process::id())?;
    let by_name = activated.into_iter().filter_map(|(name, fd)| Some((name, taken("LISTEN_FDS", fd)?)));
    Some(Inherited {
        by_name: by_name.collect(),
        of_systemd: true,
        ready: None,
        taken: Vec::new(),
        from_pid: 0,
    })
}

fn taken(what: &str, fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: whoever started this program left it open for it, and this is done once, as the program begins. One
    // that is neither a socket nor a pipe, as something of this program's own would be, is not taken.
    let fd = unsafe { descriptors::take(fd) };
    fd.inspect_err(|error| os::say(&format!("epilogue: {what}: {error}"))).ok()
}

#[derive(Debug, PartialEq, Eq)]
struct Handed {
    from_pid: u32,
    ready: RawFd,
    listeners: Vec<(String, RawFd)>,
}

fn parse_handed(text: &str) -> Option<Handed> {
    let mut parts = text.split(';');
    let from_pid = parts.next()?.parse().ok()?;
    let ready = parts.next()?.parse().ok().filter(|fd| *fd > 2)?;
    let listener = |part: &str| {
        let (name, fd) = part.rsplit_once('=')?;
        Some((name.to_owned(), fd.parse().ok().filter(|fd| *fd > 2)?))
    };
    let listeners = parts.map(listener).collect::<Option<_>>()?;
    Some(Handed { from_pid, ready, listeners })
}

/// What systemd has left open: `sd_listen_fds(3)`.
fn parse_activated(env: &impl Fn(&str) -> Option<String>, pid: u32) -> Option<Vec<(String, RawFd)>> {
    if env("LISTEN_PID")?.parse() != Ok(pid) {
        return None;
    }
    let count: usize = env("LISTEN_FDS")?.parse().ok().filter(|count| (1..=1024).contains(count))?;
    let names = env("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let mut all: Vec<(String, RawFd)> = Vec::new();
    for fd in (3..).take(count) {
        let name = names.next().filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".into());
        // Several sockets of one unit bear its name.
        let same = all.iter().any(|(other, _)| *other == name);
        all.push((if same { format!("{name}#{fd}") } else { name }, fd));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_generation_before_says_is_read_or_refused_as_a_whole() {
        let handed = parse_handed("4711;9;http=7;a=b=8").unwrap();
        assert_eq!((handed.from_pid, handed.ready), (4711, 9));
        assert_eq!(handed.listeners, [("http".to_owned(), 7), ("a=b".to_owned(), 8)]);
        for wrong in ["", "x;9", "1;2", "1;9;http", "1;9;http=0", "1;9;http=x", "1;-4", "4711"] {
            assert_eq!(parse_handed(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn the_word_of_a_generation_that_is_ready_is_whole_or_none() {
        let said = |text: &str| {
            let (reader, mut writer) = io::pipe().unwrap();
            writer.write_all(text.as_bytes()).unwrap();
            drop(writer);
            read_word(reader)
        };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(said(&word(&names(&["http", "a=b"]))), Some(names(&["http", "a=b"])));
        assert_eq!(said(&word(&[])), Some(names(&[])));
        for wrong in ["", "ready", "ready;http", "no;\n"] {
            assert_eq!(said(wrong), None, "{wrong:?}");
        }
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"ready;http\n").unwrap();
        assert_eq!(read_word(reader), Some(names(&["http"])), "whoever else holds the pipe");
        drop(writer);
    }

    #[test]
    fn systemds_sockets_are_for_this_very_process() {
        let env = |pid: &'static str, count: &'static str, names: &'static str| {
            move |name: &str| match name {
                "LISTEN_PID" => Some(pid.to_owned()),
                "LISTEN_FDS" => Some(count.to_owned()),
                "LISTEN_FDNAMES" if !names.is_empty() => Some(names.to_owned()),
                _ => None,
            }
        };
        let all = |pid, count, names| parse_activated(&env(pid, count, names), 7);
        let is = |name: &str, fd| (name.to_owned(), fd);
        assert_eq!(all("7", "2", "http:admin"), Some(vec![is("http", 3), is("admin", 4)]));
        assert_eq!(all("7", "2", "a.socket:a.socket"), Some(vec![is("a.socket", 3), is("a.socket#4", 4)]));
        assert_eq!(all("7", "1", ""), Some(vec![is("unknown", 3)]));
        for (pid, count) in [("8", "1"), ("7", "0"), ("7", "x"), ("7", "-1"), ("7", "99999")] {
            assert_eq!(all(pid, count, ""), None);
        }
        assert_eq!(parse_activated(&|_: &str| None, 7), None);
    }
}
