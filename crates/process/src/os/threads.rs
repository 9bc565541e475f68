//! What the threads of this process wait in.

/// The calling thread; 0 where the system does not tell.
pub(crate) fn this() -> i32 {
    let link = std::fs::read_link("/proc/thread-self");
    let number = link.ok().and_then(|link| link.file_name()?.to_str()?.parse().ok());
    number.unwrap_or(0)
}

/// Whether it has not ended, down to what it keeps for itself.
pub(crate) fn is_there(thread: i32) -> bool {
    std::fs::exists(format!("/proc/self/task/{thread}")).unwrap_or(true)
}

/// A system call that a thread is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum In {
    /// A read of standard input.
    ReadOfStdin,
    /// A wait for another thread.
    Futex,
    /// Another one, or none at all.
    Other,
}

/// `None` where it has ended, or the system does not tell.
pub(crate) fn is_in(thread: i32) -> Option<In> {
    let told = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).ok()?;
    let mut words = told.split_whitespace();
    let number = words.next().and_then(|number| number.parse().ok());
    Some(match (number, words.next()) {
        (Some(libc::SYS_read), Some("0x0")) => In::ReadOfStdin,
        (Some(libc::SYS_futex), _) => In::Futex,
        _ => In::Other,
    })
}

/// Whether some thread of the process is in a read of standard input.
pub(crate) fn somebody_reads_stdin() -> bool {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let mut numbers = threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok());
    numbers.any(|thread| is_in(thread) == Some(In::ReadOfStdin))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_waits_for_another_is_seen_to() {
        let (tell, told) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let waits = std::thread::spawn(move || {
            tell.send(this()).unwrap();
            wait.recv().unwrap_err();
        });
        let thread = told.recv().unwrap();
        while is_in(thread) != Some(In::Futex) {
            std::thread::yield_now();
        }
        assert_eq!(is_in(this()), Some(In::Other), "it reads, but not standard input");
        drop(go);
        waits.join().unwrap();
        while is_there(thread) {
            std::thread::yield_now();
        }
    }
}
