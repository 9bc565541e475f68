//! The one place where this crate speaks to the operating system: signals, their default action,
//! the end of the process. Linux.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::escalation::StopSignal;

pub(crate) mod descriptors;
pub(crate) mod threads;

/// A signal as it arrived.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) signal: Signal,
    /// 0 when the kernel sent it, or a sender outside the PID namespace.
    pub(crate) from_pid: i32,
}

/// What a signal is about.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    Stop(StopSignal),
    /// SIGUSR1: somebody wants to know what the program is at.
    Dump,
    /// SIGUSR2: another generation of the program is to take over.
    Upgrade,
}

impl Signal {
    fn from_number(number: i32) -> Option<Signal> {
        match number {
            libc::SIGUSR1 => Some(Signal::Dump),
            libc::SIGUSR2 => Some(Signal::Upgrade),
            _ => StopSignal::from_number(number).map(Signal::Stop),
        }
    }
}

/// The right to be told of signals. Dropped, another run may take it.
///
/// The handlers stay when it is dropped, and so does whoever was told last: one Ctrl-C through a
/// forwarding wrapper arrives twice, and the second must not kill a program that has just stopped
/// as the first asked.
pub(crate) struct Signals(());

/// Hands every stop signal, SIGUSR1 and SIGUSR2 to `on_signal`, on a thread of its own. A signal that was ignored
/// when the program started stays ignored: a background job of a shell has INT and QUIT ignored. A SIGUSR1 or
/// SIGUSR2 that the program has taken for itself is left to it.
///
/// # Errors
///
/// When another run of this process is being told already, or pipe or thread cannot be had.
pub(crate) fn listen(on_signal: impl Fn(Received) + Send + Sync + 'static) -> io::Result<Signals> {
    if LISTENING.swap(true, Ordering::AcqRel) {
        return Err(io::Error::other("another run in this process handles signals"));
    }
    let signals = Signals(());
    *TOLD.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(on_signal));
    install_once()?;
    Ok(signals)
}

impl Drop for Signals {
    fn drop(&mut self) {
        LISTENING.store(false, Ordering::Release);
    }
}

/// Ends the process the way the signal would have: its parent sees a death by that signal. PID 1
/// cannot die of a signal and exits with 128 + its number.
pub(crate) fn die_of(signal: StopSignal) -> ! {
    let number = signal.number();
    // SAFETY: plain system calls on valid arguments. The core limit is lowered so that QUIT, asked
    // for by a person, leaves no core file.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::signal(number, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, number);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::raise(number);
    }
    exit_now(128_u8.saturating_add(u8::try_from(number).unwrap_or(0)))
}

/// Ends the process without running exit handlers, and without flushing: either could wait for
/// what was abandoned. Rust's stdout holds back no more than an unfinished line.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: no preconditions.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Asks a child, that nobody has waited for, to end.
pub(crate) fn terminate(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: no memory is passed; the number is the child's as long as it was not waited for.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

/// The clock that the system counts its time-outs by.
pub(crate) fn monotonic() -> std::time::Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to be written to.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    let (seconds, nanos) = (u64::try_from(now.tv_sec), u32::try_from(now.tv_nsec));
    std::time::Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}

/// Prints a line on stderr. A closed stderr leaves nobody to tell, and is no reason to panic.
pub(crate) fn say(line: &str) {
    // At once: another process may be writing there.
    let _ = io::stderr().write_all(format!("{}\n", signed(line)).as_bytes());
}

/// From now on another generation of the program may write to the same stderr: each says who speaks.
pub(crate) fn signs_with_its_pid() {
    SIGNS.store(true, Ordering::Release);
}

static SIGNS: AtomicBool = AtomicBool::new(false);

/// What is said as `epilogue: …`, as `epilogue[4711]: …` where others say such things as well.
pub(crate) fn signed(text: &str) -> Cow<'_, str> {
    match text.strip_prefix("epilogue: ") {
        Some(said) if SIGNS.load(Ordering::Acquire) => {
            Cow::Owned(format!("epilogue[{}]: {said}", std::process::id()))
        }
        _ => Cow::Borrowed(text),
    }
}

/// Whether this is the command of `epilogue run`, which takes its end for that of the scope.
pub(crate) fn is_wrapped() -> bool {
    let parent = std::os::unix::process::parent_id();
    let named = || std::fs::read_to_string(format!("/proc/{parent}/comm"));
    std::env::var_os("EPILOGUE_SCOPE").is_some() && named().is_ok_and(|name| name.trim() == "epilogue")
}

/// Prints a text on stdout, for whoever asked for it.
pub(crate) fn tell(text: &str) {
    let mut stdout = io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

/// The same for a process that must leave now: neither a full pipe nor a thread that holds the lock
/// of stderr may keep it.
pub(crate) fn say_now(text: &str) {
    let text = signed(text);
    let mut ready = libc::pollfd { fd: 2, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one valid pollfd; then at most one pipe buffer's worth of `text`, which a writable
    // pipe takes without blocking.
    unsafe {
        if libc::poll(&raw mut ready, 1, 0) == 1 && ready.revents & libc::POLLOUT != 0 {
            libc::write(2, text.as_ptr().cast(), text.len().min(4096));
        }
    }
}

/// Registers `handler` to run when somebody calls `exit`, or `main` returns.
pub(crate) fn at_exit(handler: extern "C" fn()) -> bool {
    // SAFETY: `handler` is a function of this program, so it is there as long as the process; an
    // unwind out of an `extern "C"` function aborts.
    unsafe { libc::atexit(handler) == 0 }
}

/// Makes the process exit with `code`, whatever status its exit began with, and with every exit
/// handler that was registered before run all the same.
pub(crate) fn exit_code_will_be(code: u8) {
    EXIT_CODE.store(i32::from(code), Ordering::Release);
    static REGISTERED: AtomicBool = AtomicBool::new(false);
    if !REGISTERED.swap(true, Ordering::AcqRel) {
        at_exit(correct_exit_code);
    }
}

static EXIT_CODE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn correct_exit_code() {
    let code = EXIT_CODE.swap(-1, Ordering::AcqRel);
    if code >= 0 {
        // `main` may have returned while a thread that called `exit` is on its way out.
        crate::exit::wait_until_unwound();
        // SAFETY: the C library of Linux goes on with the handlers that are left, and the new status,
        // when a handler calls `exit`. It does so once: the code has been taken.
        unsafe { libc::exit(code) }
    }
}

/// The process that listens. A forked child shares the pipe and must not write to it.
static OWNER: AtomicI32 = AtomicI32::new(0);
static LISTENING: AtomicBool = AtomicBool::new(false);
static PIPE: AtomicI32 = AtomicI32::new(-1);

type Told = Arc<dyn Fn(Received) + Send + Sync>;
static TOLD: Mutex<Option<Told>> = Mutex::new(None);

fn install_once() -> io::Result<()> {
    static INSTALLED: Mutex<bool> = Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    let reader = open_pipe()?;
    std::thread::Builder::new().name("epilogue-signals".into()).spawn(move || forward(reader))?;
    for signal in StopSignal::ALL {
        let number = signal.number();
        if disposition(number)? != libc::SIG_IGN {
            install(number)?;
        } else if signal == StopSignal::Term {
            say(
                "epilogue: SIGTERM was ignored when this program began, and stays so: only SIGINT, SIGHUP or \
                 the program itself stop it in order (see trap, nohup)",
            );
        }
    }
    for number in [libc::SIGUSR1, libc::SIGUSR2] {
        if disposition(number)? == libc::SIG_DFL {
            install(number)?;
        }
    }
    *installed = true;
    Ok(())
}

/// One signal in the pipe: its number and its sender, 8 bytes, written at once.
#[repr(C)]
struct Message {
    number: i32,
    from_pid: i32,
}

fn open_pipe() -> io::Result<io::PipeReader> {
    let (reader, writer) = io::pipe()?;
    let writer = OwnedFd::from(writer).into_raw_fd();
    // SAFETY: `writer` is an open descriptor. Non-blocking, because a handler must not wait: when
    // 8192 signals are queued the next one tells nothing new.
    unsafe { libc::fcntl(writer, libc::F_SETFL, libc::O_NONBLOCK) };
    // SAFETY: no preconditions.
    OWNER.store(unsafe { libc::getpid() }, Ordering::Relaxed);
    PIPE.store(writer, Ordering::Release);
    Ok(reader)
}

/// What a signal does now: the default, nothing, or a handler.
fn disposition(number: i32) -> io::Result<libc::sighandler_t> {
    // SAFETY: zeroed is a valid sigaction to be written to.
    unsafe {
        let mut now: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(number, std::ptr::null(), &raw mut now) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(now.sa_sigaction)
    }
}

fn install(number: i32) -> io::Result<()> {
    // SAFETY: the handler only calls write(2) and touches atomics, both async-signal-safe.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(_, _, _) as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        if libc::sigaction(number, &raw const action, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

extern "C" fn on_signal(number: i32, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to an SA_SIGINFO handler; errno is put back so
    // that the interrupted code does not see ours; write(2) is async-signal-safe.
    unsafe {
        let errno = *libc::__errno_location();
        let sent = (*info).si_code == libc::SI_USER || (*info).si_code == libc::SI_QUEUE;
        let message = Message { number, from_pid: if sent { (*info).si_pid() } else { 0 } };
        let fd = PIPE.load(Ordering::Acquire);
        if fd >= 0 && libc::getpid() == OWNER.load(Ordering::Relaxed) {
            libc::write(fd, (&raw const message).cast(), size_of::<Message>());
        }
        *libc::__errno_location() = errno;
    }
}

fn forward(mut reader: io::PipeReader) {
    let mut bytes = [0; size_of::<Message>()];
    while reader.read_exact(&mut bytes).is_ok() {
        let [a, b, c, d, e, f, g, h] = bytes;
        let number = i32::from_ne_bytes([a, b, c, d]);
        if let Some(signal) = Signal::from_number(number) {
            let told = TOLD.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if let Some(told) = told {
                told(Received { signal, from_pid: i32::from_ne_bytes([e, f, g, h]) });
            }
        }
    }
}
