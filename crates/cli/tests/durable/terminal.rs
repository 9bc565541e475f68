//! At a terminal: Ctrl-C, Ctrl-Z, and a program that is never killed by its wrapper; and what else passes
//! through the wrapper to the command.

use crate::rig::{Ran, Rig, skipped};

/// A terminal of Python's making, at which a program runs: once this is shown, that is typed, and so on. What begins
/// with [`TO_A_JOB`] is typed once the terminal is a job's, and not the shell's any more: the shell shows what goes
/// on before it hands the terminal over, and a line that is typed in between is no line to the job.
/// Gives what was shown, and the wait status.
fn at_terminal(rig: &Rig, argv: &[&str], dialog: &[(&str, &str)]) -> (String, String) {
    const TERMINAL: &str = r#"
import json, os, pty, select, sys, termios, time
argv, dialog = json.loads(sys.argv[1]), json.loads(sys.argv[2])
pid, fd = pty.fork()
if pid == 0:
    os.execvp(argv[0], argv)
shown, seen, until = "", 0, time.time() + 30
while time.time() < until:
    ready, _, _ = select.select([fd], [], [], 0.05)
    if ready:
        try: part = os.read(fd, 4096).decode()
        except OSError: break
        if not part: break
        shown += part
    while dialog and dialog[0][0] in shown[seen:]:
        wanted, typed = dialog.pop(0)
        seen = shown.index(wanted, seen) + len(wanted)
        if typed.startswith("to a job: "):
            typed = typed[len("to a job: "):]
            while time.time() < until and (os.tcgetpgrp(fd) == pid or not termios.tcgetattr(fd)[3] & termios.ICANON):
                time.sleep(0.005)
        os.write(fd, typed.encode())
if dialog: os.kill(pid, 9)
_, status = os.waitpid(pid, 0)
print(shown)
print("STATUS", status)
"#;
    let argv = serde_json::to_string(argv).unwrap();
    let dialog = serde_json::to_string(dialog).unwrap();
    let output = rig.command("python3").args(["-c", TERMINAL, &argv, &dialog]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (shown, status) = text.rsplit_once("STATUS ").unwrap();
    (shown.to_owned(), status.trim().to_owned())
}

const TO_A_JOB: &str = "to a job: ";

#[test]
fn ctrl_c_ends_the_script_pays_and_the_wrapper_dies_of_it() {
    let rig = Rig::new("ctrl-c");
    let command = r#"exec epilogue run -- bash -c 'epilogue tmp -d > note-dir; echo ready; sleep 60'"#;
    let (shown, status) = at_terminal(&rig, &["bash", "-c", command], &[("ready", "\x03")]);
    assert_eq!(status, "2", "death by SIGINT, so that a shell ends its loop: {shown}");
    assert!(shown.contains("bash was killed by SIGINT; ran 1 of 1 cleanup"), "{shown}");
    assert_eq!(rig.left(), [""; 0]);
}

#[test]
fn a_program_that_handles_ctrl_c_gets_it_once() {
    let rig = Rig::new("once");
    let python = "import signal, time; n = 0\\ndef got(*a):\\n global n; n += 1\\nsignal.signal(signal.SIGINT, got); print(\\\"ready\\\", flush=True)\\nend = time.time() + 1\\nwhile time.time() < end: time.sleep(0.01)\\nprint(\\\"got\\\", n)";
    let command = format!(r#"exec epilogue run -- python3 -c "$(printf "{python}")""#);
    let (shown, status) = at_terminal(&rig, &["bash", "-c", &command], &[("ready", "\x03")]);
    assert!(shown.contains("got 1"), "the terminal's own is not forwarded as well: {shown}");
    assert_eq!(status, "0");
}

#[test]
fn the_first_ctrl_c_while_paying_says_what_runs_and_the_cleanup_does_not_see_it() {
    let rig = Rig::new("paying");
    let command = r#"exec epilogue run -- bash -c 'epilogue defer -- sh -c "echo ready; sleep 1; echo done > note-done"'"#;
    let (shown, status) = at_terminal(&rig, &["bash", "-c", command], &[("ready", "\x03")]);
    assert!(shown.contains("running a cleanup: sh -c"), "{shown}");
    assert_eq!((status.as_str(), rig.read("note-done").trim()), ("0", "done"), "{shown}");
}

#[test]
fn ctrl_z_stops_it_and_fg_goes_on_with_the_terminal_in_its_hands() {
    let rig = Rig::new("ctrl-z");
    const PROMPT: &str = "at your service ";
    let shell = ["env", "PS1=at your service ", "bash", "--norc", "-i"];
    let run = "epilogue run -- bash -c 'epilogue tmp -d > note-dir; echo rea\"\"dy; read line < /dev/tty; echo $line; echo do\"\"ne'\n";
    let typed = format!("{TO_A_JOB}typed\n");
    let dialog = [
        (PROMPT, run),
        ("ready", "\x1a"),
        // What is stopped is shown, and what goes on. Typed before the prompt it would be lost: the shell sets the
        // terminal up anew.
        ("Stopped", ""),
        (PROMPT, "fg\n"),
        ("epilogue run", typed.as_str()),
        ("done", "exit\n"),
    ];
    let (shown, status) = at_terminal(&rig, &shell, &dialog);
    assert_eq!(status, "0", "{shown}");
    assert!(shown.contains("bash exited with 0; ran 1 of 1 cleanup"), "{shown}");
    assert!(shown.matches("typed").count() >= 2, "typed, and read by the command: {shown}");
    assert_eq!(rig.left(), [""; 0]);
}

#[test]
fn the_command_reads_the_terminal_as_a_pager_does() {
    let rig = Rig::new("pager");
    let command = "exec epilogue run -- bash -c 'echo text | { echo ready; head -1 < /dev/tty > note-key; }'";
    let (shown, status) = at_terminal(&rig, &["bash", "-c", command], &[("ready", "q\n")]);
    assert_eq!((status.as_str(), rig.read("note-key").trim()), ("0", "q"), "{shown}");
}

#[test]
fn makes_job_server_passes_through() {
    let rig = Rig::new("make");
    // Two jobs that wait for each other: with one at a time neither ends.
    let makefile = "all:\n\t+epilogue run -- $(MAKE) -f note-makefile one two\n\
         one two:\n\t@touch note-$@; for n in `seq 1000`; do [ -e note-one ] && [ -e note-two ] && exit 0; \
         sleep 0.01; done; exit 1\n";
    std::fs::write(rig.path("note-makefile"), makefile).unwrap();
    let Ok(output) = rig.command("make").args(["-j2", "-f", "note-makefile", "all"]).output() else {
        return skipped("there is no make");
    };
    let ran = Ran(output);
    assert_eq!(ran.code(), 0, "{}{}", ran.stdout(), ran.stderr());
    assert!(!ran.stderr().contains("jobserver"), "{}", ran.stderr());
}

#[test]
fn sockets_that_were_passed_to_the_wrapper_are_the_commands() {
    let rig = Rig::new("listen");
    std::fs::write(rig.path("note-socket"), "a socket\n").unwrap();
    let mut command = rig.command("bash");
    command.args([
        "-c",
        r#"exec 3< note-socket; export LISTEN_FDS=1 LISTEN_PID=$$
           exec epilogue run -- bash -c '[ "$LISTEN_PID" = $$ ] && cat <&3'"#,
    ]);
    let ran = Ran(command.output().unwrap());
    assert_eq!((ran.code(), ran.stdout().as_str()), (0, "a socket\n"), "{}", ran.stderr());
    // A variable that was meant for another process is left as it is.
    let ran = Ran(rig.wrapped(&[], "echo $LISTEN_PID").env("LISTEN_PID", "1").output().unwrap());
    assert_eq!(ran.stdout(), "1\n");
}
