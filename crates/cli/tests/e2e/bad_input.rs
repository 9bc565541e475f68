//! Bad input: a clear message, an exit status that says whose fault it was, and nothing left.

use crate::support::{Scratch, turn};

fn refused(name: &str, arguments: &[&str], code: i32, says: &str) {
    let _turn = turn();
    let scratch = Scratch::new(name);
    let mut all = vec!["prove", "--quiet"];
    all.extend(arguments);
    let output = scratch.epilogue(&all).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains(says), "{says:?} in {stderr}");
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(scratch.runs(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn an_unknown_trigger_is_named_with_those_there_are() {
    refused("trigger", &["-t", "STOP"], 2, "unknown trigger \"STOP\"; there are return, exit");
}

#[test]
fn a_command_that_is_not_there() {
    refused("missing", &["--", "./no-such-server"], 2, "./no-such-server: no such command");
}

#[test]
fn a_command_that_is_never_ready_shows_what_it_printed() {
    let server = "echo warming up; exec sleep 60";
    let config = "command = ['sh', '-c', 'X']\nready-within-s = 0.5".replace('X', server);
    let scratch = Scratch::new("never-config");
    let file = scratch.path().join("prove.toml");
    std::fs::write(&file, config).unwrap();
    let file = file.to_str().unwrap();
    refused(
        "never",
        &["--config", file],
        1,
        "not ready within 500ms: it listens on no port; it printed:\n    warming up",
    );
}

#[test]
fn a_command_that_dies_at_once_shows_how_and_why() {
    let command = ["--", "sh", "-c", "echo no config >&2; exit 4"];
    refused("dies", &command, 1, "ended before it was ready (exit 4); it printed:\n    no config");
}

#[test]
fn a_port_that_is_taken_names_its_owner() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let says = format!("port {port} is taken by pid {}", std::process::id());
    refused("taken", &["--port", &port, "--", "python3", "-m", "http.server", &port], 2, &says);
}

#[test]
fn a_wrong_field_of_a_file_is_named_with_its_value() {
    let scratch = Scratch::new("config");
    let file = scratch.path().join("prove.toml");
    std::fs::write(&file, "command = ['x']\nslow = 'slow'").unwrap();
    refused("field", &["--config", file.to_str().unwrap()], 2, "slow = \"slow\" is not a path");
}

#[test]
fn a_duration_without_a_unit_is_not_guessed() {
    refused("duration", &["--lag", "3"], 2, "\"3\" is not a duration: it has no unit; write it like 30s");
}

#[test]
fn a_server_that_dies_by_itself_before_it_is_told_to_fails_its_row() {
    let _turn = turn();
    let scratch = Scratch::new("early");
    // The load asks 150 times a second, and for half a second before anything is ended.
    let server = r"
import http.server, os, sys
asked = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global asked
        asked += 1
        if asked == 30:
            print('out of ink', flush=True)
            os._exit(9)
        self.send_response(204)
        self.end_headers()
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";
    let proved = scratch.prove(&["-t", "TERM", "--", "python3", "-c", server, "{port}"]);
    let reason = proved.row("python3", "TERM")["reason"].as_str().unwrap();
    assert!(reason.contains("ended by itself (exit 9) before it was told to"), "{reason}");
    assert!(reason.contains("out of ink"), "{reason}");
    assert_eq!(proved.code(), Some(1));
}

#[test]
fn a_full_disk_fails_the_program_that_writes_and_kills_nobody() {
    let _turn = turn();
    let scratch = Scratch::new("full");
    let script = "mount -t tmpfs -o size=600k tmpfs \"$TMPDIR\" && exec \"$@\"";
    let inside = ["--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"];
    let mut command = std::process::Command::new("unshare");
    command.args(inside).arg(env!("CARGO_BIN_EXE_epilogue"));
    command.args(["prove", "--quiet", "--style", "epilogue", "-t", "TERM", "--json", "-"]);
    let output = command.env("TMPDIR", scratch.path()).env("RUST_BACKTRACE", "0").output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if stderr.starts_with("unshare:") || stderr.contains("mount:") {
        eprintln!("skipped: this machine allows no user namespace");
        return;
    }
    assert!(stderr.contains("FAIL   exit 0"), "it stopped in order all the same: {stdout}{stderr}");
    assert!(stdout.contains("No space left on device"), "{stdout}");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let _turn = turn();
    let scratch = Scratch::new("head");
    let mut command = scratch.epilogue(&["prove", "--quiet", "--style", "epilogue", "-t", "KILL"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn what_is_said_of_a_server_is_checked_before_anything_hangs_on_it() {
    let server = r"
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, status, body=b''):
        self.send_response(status)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def do_GET(self):
        self.answer(200 if self.path in ('/', '/items/7') else 404)
    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length'] or 0))
        if self.path == '/items': self.answer(201, b'{\'id\':7}'.replace(b'\'', b'\x22'))
        elif self.path == '/silent': self.answer(201)
        else: self.answer(404)
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
";
    let command = ["--", "python3", "-c", server, "{port}"];
    let wrong = |name: &str, options: &[&str], says: &str| {
        let mut all = vec!["-t", "TERM"];
        all.extend(options);
        all.extend(command);
        refused(name, &all, 2, says);
    };
    wrong("fast", &["--fast", "/nope"], "--fast: GET /nope was answered 404");
    wrong(
        "write",
        &["--write", "POST /itemz", "--read", "/items/{id}"],
        "--write: POST /itemz was answered 404",
    );
    wrong("no-id", &["--write", "POST /silent", "--read", "/items/{id}"], "was acknowledged without an id");
    wrong(
        "read",
        &["--write", "POST /items", "--read", "/itemz/{id}"],
        "--read: GET /itemz/7 was answered 404",
    );
    wrong("slow", &["--slow", "/slo"], "a request that was to be held was answered 404 at once");
    wrong("watch", &["--watch", "{dri}/run"], "only {dir} and {port} are filled in");
}

#[test]
fn a_report_that_cannot_be_written_is_said_before_the_work() {
    refused("html", &["--html", "no-such-dir/x.html"], 2, "no-such-dir is no directory");
}
