//! At a terminal: Ctrl-C, and a program that is never killed by its wrapper.

use crate::rig::Rig;

/// A terminal of Python's making: it types, and reads what is shown.
fn at_terminal(rig: &Rig, command: &str, types: &str) -> (String, String) {
    let script = format!(
        r#"
import os, pty, re, select, signal, sys, time
pid, fd = pty.fork()
if pid == 0:
    os.execvp("bash", ["bash", "-c", {command:?}])
shown, sent = "", False
until = time.time() + 30
while time.time() < until:
    ready, _, _ = select.select([fd], [], [], 0.05)
    if ready:
        try: part = os.read(fd, 4096).decode()
        except OSError: break
        if not part: break
        shown += part
    if not sent and "ready" in shown:
        os.write(fd, {types:?}.encode().decode("unicode_escape").encode()); sent = True
_, status = os.waitpid(pid, 0)
print(shown)
print("STATUS", status)
"#
    );
    let output = rig.command("python3").args(["-c", &script]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (shown, status) = text.rsplit_once("STATUS ").unwrap();
    (shown.to_owned(), status.trim().to_owned())
}

#[test]
fn ctrl_c_ends_the_script_pays_and_the_wrapper_dies_of_it() {
    let rig = Rig::new("ctrl-c");
    let command = r#"exec epilogue run -- bash -c 'epilogue tmp -d > note-dir; echo ready; sleep 60'"#;
    let (shown, status) = at_terminal(&rig, command, r"\x03");
    assert_eq!(status, "2", "death by SIGINT, so that a shell ends its loop: {shown}");
    assert!(shown.contains("bash was killed by SIGINT; ran 1 of 1 cleanup"), "{shown}");
    assert_eq!(rig.left(), [""; 0]);
}

#[test]
fn a_program_that_handles_ctrl_c_gets_it_once() {
    let rig = Rig::new("once");
    let python = "import signal, time; n = 0\\ndef got(*a):\\n global n; n += 1\\nsignal.signal(signal.SIGINT, got); print(\\\"ready\\\", flush=True)\\nend = time.time() + 1\\nwhile time.time() < end: time.sleep(0.01)\\nprint(\\\"got\\\", n)";
    let command = format!(r#"exec epilogue run -- python3 -c "$(printf "{python}")""#);
    let (shown, status) = at_terminal(&rig, &command, r"\x03");
    assert!(shown.contains("got 1"), "the terminal's own is not forwarded as well: {shown}");
    assert_eq!(status, "0");
}

#[test]
fn the_first_ctrl_c_while_paying_says_what_runs_and_the_cleanup_does_not_see_it() {
    let rig = Rig::new("paying");
    let command = r#"exec epilogue run -- bash -c 'epilogue defer -- sh -c "echo ready; sleep 1; echo done > note-done"'"#;
    let (shown, status) = at_terminal(&rig, command, r"\x03");
    assert!(shown.contains("running a cleanup: sh -c"), "{shown}");
    assert_eq!((status.as_str(), rig.read("note-done").trim()), ("0", "done"), "{shown}");
}
