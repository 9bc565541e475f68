//! Real servers, started for a test and gone after it.

#![allow(dead_code, reason = "each test program uses some of it")]

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("epilogue-guardian-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn root() -> bool {
    // SAFETY: no preconditions.
    unsafe { libc::geteuid() == 0 }
}

/// A server process that ends with its test.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    dir: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SAFETY: no memory is passed. INT is a fast stop for both servers.
        unsafe { libc::kill(i32::try_from(self.child.id()).unwrap(), libc::SIGINT) };
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A Redis server, with a password if one is given.
pub(crate) fn redis(password: Option<&str>) -> Server {
    let port = free_port();
    let dir = scratch(&format!("redis-{port}"));
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(&dir);
    if let Some(password) = password {
        command.args(["--requirepass", password]);
    }
    let child = command.stdout(Stdio::null()).spawn().expect("redis-server is installed");
    wait_until("redis listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    Server { child, port, dir }
}

/// A PostgreSQL server that trusts everyone who reaches it.
pub(crate) fn postgres(name: &str) -> Server {
    let (port, dir) = (free_port(), scratch(name));
    let bin =
        std::fs::read_dir("/usr/lib/postgresql").expect("postgresql is installed").flatten().next().unwrap();
    let bin = bin.path().join("bin");
    let data = dir.join("data");
    if root() {
        let owned = Command::new("chown").args(["postgres", &dir.display().to_string()]).status().unwrap();
        assert!(owned.success());
    }
    let as_user = |program: &Path| {
        if root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
            command
        } else {
            Command::new(program)
        }
    };
    let made = as_user(&bin.join("initdb"))
        .args(["-U", "postgres", "-A", "trust", "--no-sync", "-D"])
        .arg(&data)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let access = "local all all trust\nhost all all 0.0.0.0/0 trust\n";
    std::fs::write(data.join("pg_hba.conf"), access).unwrap();
    let child = as_user(&bin.join("postgres"))
        .arg("-D")
        .arg(&data)
        .args(["-p", &port.to_string(), "-c", "listen_addresses=0.0.0.0", "-c", "fsync=off", "-k"])
        .arg(&dir)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let server = Server { child, port, dir };
    wait_until("postgres answers", || {
        postgres::Client::connect(&server.address("127.0.0.1"), postgres::NoTls).is_ok()
    });
    server
}

impl Server {
    pub(crate) fn address(&self, host: &str) -> String {
        format!("postgres://postgres@{host}:{}/postgres", self.port)
    }
}
