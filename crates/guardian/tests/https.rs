//! A request over https against a server with a real certificate, of an authority that is known or not.
//!
//! One test alone in its program: it sets the variable that names the trusted authorities.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use epilogue_guardian::*;
use epilogue_journal::{Record, State, Tier};

const SERVER: &str = r#"
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_DELETE(self):
        with open("seen", "a") as seen: seen.write(self.path + " " + self.headers["Idempotency-Key"] + "\n")
        self.send_response(204); self.end_headers()
    def log_message(self, *a): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("server.pem", "server.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"#;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn make_certificates(dir: &Path) {
    let script = "
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=Test authority' \
            -addext basicConstraints=critical,CA:TRUE -keyout ca.key -out ca.pem
        openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout server.key -out server.csr
        printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\nbasicConstraints=CA:FALSE\n' > ext
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.pem";
    let made = Command::new("sh").args(["-ec", script]).current_dir(dir).stderr(Stdio::null()).status();
    assert!(made.unwrap().success(), "openssl makes certificates");
}

/// Pays one request, and says what became of it.
fn paid(dir: &Path, url: &str) -> (Report, State) {
    let home = Home::find(Some(&dir.join("state")), Tier::Process).unwrap();
    let run = Run::create(&home, NewRun::default()).unwrap();
    let body = Call::of(&HttpRequest::new("DELETE", url).unwrap()).unwrap().to_bytes().unwrap();
    let record = Record { scope: 1, time_ms: 0, body: &body, tier: Tier::Process };
    let id = run.journal.register(&record).unwrap().id();
    let options = Options { budget: Duration::from_secs(20), attempts: 1, ..Options::of(Runner::Recover) };
    let generation = run.journal.take_over(this_process()).unwrap();
    let report = pay(&run, generation, &options).unwrap();
    let state = run.journal.scan().unwrap().find(id).unwrap().state;
    (report, state)
}

#[test]
fn a_certificate_of_a_known_authority_for_this_name_is_needed() {
    let dir = std::env::temp_dir().join(format!("epilogue-https-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    make_certificates(&dir);
    let mut server = Server(
        Command::new("python3")
            .args(["-c", SERVER])
            .current_dir(&dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there"),
    );
    let mut port = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut port).unwrap();
    let url = |host: &str| format!("https://{host}:{}/uploads/7", port.trim());

    let (report, state) = paid(&dir, &url("localhost"));
    assert_eq!(state, State::Failed, "an authority that nobody knows: {report:?}");
    let why = report.failed[0].why.clone().unwrap();
    assert!(why.contains("certificate") || why.contains("UnknownIssuer"), "{why}");

    // SAFETY: this program has one test, and no other thread that reads the environment now.
    unsafe { std::env::set_var("SSL_CERT_FILE", dir.join("ca.pem")) };
    let (report, state) = paid(&dir, &url("127.0.0.1"));
    assert_eq!(state, State::Failed, "the certificate is for another name: {report:?}");
    assert!(!dir.join("seen").exists(), "nothing was sent to who could not prove itself");
    let (report, state) = paid(&dir, &url("localhost"));
    assert_eq!((state, report.ran.len()), (State::Done, 1), "{report:?}");
    let seen = std::fs::read_to_string(dir.join("seen")).unwrap();
    assert!(seen.starts_with("/uploads/7 ") && seen.len() > 20, "{seen}");
    drop(server);
    std::fs::remove_dir_all(&dir).unwrap();
}
