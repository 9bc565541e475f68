//! What the tests need beside a Rust toolchain, from Debian's packages.

use std::process::Command;

/// A program, the package it is in, and what for.
const NEEDED: [(&str, &str, &str); 10] = [
    ("chromium", "chromium", "takes the screenshots of the HTML report"),
    ("python3", "python3", "is the server that nobody here wrote"),
    ("redis-server", "redis-server", "holds the locks that are released"),
    ("nats-server", "nats-server", "delivers the messages that are handled"),
    ("rabbitmq-server", "rabbitmq-server", "holds the messages that are not lost"),
    ("initdb", "postgresql", "is what several machines share"),
    ("ip", "iproute2", "makes the network that is cut"),
    ("openssl", "openssl", "makes the certificates of a server"),
    ("make", "make", "has a job server that must pass through"),
    ("strace", "strace", "kills at every system call"),
];

/// Makes sure that everything is there; installs it where that is allowed.
pub(crate) fn ensure() -> Result<(), String> {
    let missing: Vec<_> = NEEDED.iter().filter(|(program, ..)| !is_there(program)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    for (program, _, what_for) in &missing {
        println!("xtask: {program} is missing: it {what_for}");
    }
    let packages: Vec<&str> = missing.iter().map(|(_, package, _)| *package).collect();
    let install =
        format!("apt-get install -y --no-install-recommends {} fonts-dejavu-core", packages.join(" "));
    if !is_root() {
        return Err(format!("run this once, then try again:\n  sudo sh -c 'apt-get update && {install}'"));
    }
    println!("xtask: installing: {install}");
    let script = format!("apt-get update -qq && DEBIAN_FRONTEND=noninteractive {install} -qq >/dev/null");
    let status = Command::new("sh").arg("-c").arg(script).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the installation failed ({status}); by hand: {install}")),
        Err(error) => Err(format!("no shell to install with: {error}")),
    }
}

/// Whether a program is on the PATH.
pub(crate) fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps a server's own programs apart, by version.
    let servers = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let servers = servers.map(|version| version.path().join("bin"));
    std::env::split_paths(&path).chain(servers).any(|dir| dir.join(program).is_file())
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}
