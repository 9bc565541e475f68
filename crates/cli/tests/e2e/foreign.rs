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
        if self.path == "/slow":
            time.sleep(1.5)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
server = Server(("127.0.0.1", int(sys.argv[1])), Handler)
mode = sys.argv[2]
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
