//! Servers nobody here wrote.

use crate::support::{Scratch, lost, turn};

#[test]
fn pythons_http_server_gets_a_truthful_table_without_a_blank_cell() {
    let _turn = turn();
    let scratch = Scratch::new("python");
    std::fs::write(scratch.path().join("index.html"), "hello").unwrap();
    let proved = scratch.prove(&["-t", "exit,TERM,KILL", "--", "python3", "-m", "http.server", "{port}"]);
    assert_eq!(proved.code(), Some(1), "it refuses what the router still sends");
    let term = proved.row("python3", "TERM");
    assert!(lost(&term["arrivals"]) > 50);
    for cell in ["in_flight", "idle", "ledger", "cleanups", "files"] {
        assert!(term["not_exercised"][cell].is_string(), "{cell}: {term:#}");
    }
    assert_eq!(proved.row("python3", "exit")["verdict"], "skipped");
    let stdout = proved.stdout();
    let row = stdout.lines().find(|line| line.starts_with("TERM")).unwrap();
    // Way out, verdict, ended (two words), and eight cells; restart is two words.
    assert_eq!(row.split_whitespace().count(), 13, "{row}");
    assert!(stdout.contains("n/e, idle: not exercised: the server closes after each response"), "{stdout}");
}

/// A threading server that finishes what it has begun, closes at once, and speaks HTTP/1.1.
const SLOW_SERVER: &str = r#"
import http.server, signal, sys, threading, time
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        with slots:
            self.answer()
    def answer(self):
        if self.path == "/slow":
            time.sleep(5 if mode == "shares" else 1.5)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
mode = sys.argv[2]
slots = threading.Semaphore(16 if mode == "shares" else 1000)
server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
if mode == "ignore":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
server.serve_forever()
"#;

fn slow_server(scratch: &Scratch) -> String {
    let path = scratch.path().join("server.py");
    std::fs::write(&path, SLOW_SERVER).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_request_that_is_read_and_not_answered_is_proven_in_flight_and_seen_to_be_lost() {
    let _turn = turn();
    let scratch = Scratch::new("slow");
    let server = slow_server(&scratch);
    let proved =
        scratch.prove(&["-t", "TERM", "--slow", "/slow", "--", "python3", &server, "{port}", "obey"]);
    let row = proved.row("python3", "TERM");
    assert_eq!(row["proof"], "0 answering, 30 read by the server, of 30", "{row:#}");
    assert_eq!(lost(&row["in_flight"]), 30, "{row:#}");
    assert!(row["reason"].as_str().unwrap().starts_with("lost in flight: 30 closed_after_send"), "{row:#}");
}

#[test]
fn a_server_whose_slow_requests_hold_up_the_fast_ones_is_not_said_to_close_its_connections() {
    let _turn = turn();
    let scratch = Scratch::new("shares");
    let server = slow_server(&scratch);
    let proved =
        scratch.prove(&["-t", "TERM", "--slow", "/slow", "--", "python3", &server, "{port}", "shares"]);
    let row = proved.row("python3", "TERM");
    let why = row["not_exercised"]["idle"].as_str().unwrap();
    assert!(why.starts_with("not exercised: no first answer came before the trigger"), "{row:#}");
}

#[test]
fn a_server_that_ignores_term_is_killed_at_the_end_of_the_grace_and_named() {
    let _turn = turn();
    let scratch = Scratch::new("ignores");
    let server = slow_server(&scratch);
    let arguments = ["-t", "TERM", "--grace", "3s", "--", "python3", &server, "{port}", "ignore"];
    let proved = scratch.prove(&arguments);
    let row = proved.row("python3", "TERM");
    assert_eq!(row["reason"], "still there at the end of the grace: killed");
    assert_eq!(row["exit"]["signal"], 9);
    assert_eq!(proved.code(), Some(1));
}

#[test]
fn a_request_that_does_not_end_the_server_is_no_verdict_on_it() {
    let _turn = turn();
    let scratch = Scratch::new("typo");
    let server = slow_server(&scratch);
    let arguments =
        ["-t", "exit", "--hook", "exit=GET /fine", "--", "python3", "-m", "http.server", "{port}"];
    let proved = scratch.prove(&arguments);
    let row = proved.row("python3", "exit");
    assert_eq!(row["verdict"], "inconclusive", "{row:#}");
    assert_eq!(row["reason"], "the request for exit was answered 404: nothing was ended");
    assert_eq!(proved.code(), Some(5));

    let arguments =
        ["-t", "panic-handler", "--hook", "panic-handler=GET /", "--", "python3", &server, "{port}", "obey"];
    let proved = scratch.prove(&arguments);
    let reason = &proved.row("python3", "panic-handler")["reason"];
    assert_eq!(reason, "the request for panic-handler was answered 200: nothing panicked");
}

#[test]
fn a_child_without_the_mark_is_a_leak_and_is_ended() {
    let _turn = turn();
    let scratch = Scratch::new("scrubbed");
    let server = r"
import http.server, subprocess, sys
subprocess.Popen(['sleep', '61'], env={}, start_new_session=True)
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), http.server.SimpleHTTPRequestHandler).serve_forever()
";
    let proved = scratch.prove(&["-t", "KILL", "--", "python3", "-c", server, "{port}"]);
    let row = proved.row("python3", "KILL");
    let what = row["leaks"][0]["what"].as_str().unwrap();
    assert!(what.ends_with(" sleep 61"), "{row:#}");
    let pid = what.split_whitespace().nth(1).unwrap();
    assert!(!std::path::Path::new("/proc").join(pid).join("exe").exists(), "{pid} was ended");
}

#[test]
fn a_prestop_hook_that_outlasts_the_lag_saves_a_server_that_closes_at_once() {
    let _turn = turn();
    let scratch = Scratch::new("prestop");
    let server = slow_server(&scratch);
    let arguments =
        ["-t", "TERM", "--prestop", "2.5s", "--slow", "/slow", "--", "python3", &server, "{port}", "obey"];
    let proved = scratch.prove(&arguments);
    let row = proved.row("python3", "TERM");
    assert_eq!(row["verdict"], "pass", "{row:#}");
    assert!((2500..3000).contains(&row["prestop_ms"].as_u64().unwrap()));
    let held = row["not_exercised"]["in_flight"].as_str().unwrap();
    assert!(held.starts_with("not exercised: 30 of 30 held requests had ended before the signal"), "{held}");

    let failing = ["-t", "TERM", "--prestop", "exit 3", "--", "python3", "-m", "http.server", "{port}"];
    let proved = scratch.prove(&failing);
    assert_eq!(proved.row("python3", "TERM")["reason"], "the preStop hook failed (exit 3)");
}
