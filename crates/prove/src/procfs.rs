//! What `/proc` says: sockets and their owners, processes and their marks.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// One row of the TCP table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Socket {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) listens: bool,
    /// Bytes that arrived and were not read.
    pub(crate) unread: u64,
    /// 0 while nobody has accepted it.
    pub(crate) inode: u64,
}

/// All TCP sockets of this network namespace.
pub(crate) fn sockets() -> Vec<Socket> {
    let mut all = Vec::new();
    for table in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
        // A kernel without IPv6 has no second table.
        let text = fs::read_to_string(table).unwrap_or_default();
        all.extend(text.lines().skip(1).filter_map(parse_socket));
    }
    all
}

/// Who listens on a port: the inodes of the sockets.
pub(crate) fn listeners(port: u16) -> Vec<u64> {
    sockets().into_iter().filter(|s| s.listens && s.local.port() == port).map(|s| s.inode).collect()
}

fn parse_socket(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, unread) = fields.get(4)?.split_once(':')?;
    Some(Socket {
        local: parse_address(fields.get(1)?)?,
        remote: parse_address(fields.get(2)?)?,
        listens: *fields.get(3)? == "0A",
        unread: u64::from_str_radix(unread, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

fn parse_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Each group of eight digits is a 32-bit word in the machine's byte order.
    let words: Vec<u32> = (0..address.len() / 8)
        .map(|at| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok())
        .collect::<Option<_>>()?;
    let ip = match words.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(word.to_ne_bytes())),
        [a, b, c, d] => {
            let mut bytes = [0; 16];
            for (chunk, word) in bytes.chunks_exact_mut(4).zip([a, b, c, d]) {
                chunk.copy_from_slice(&word.to_ne_bytes());
            }
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Processes of this user whose environment has `variable=value`. Zombies have none.
pub(crate) fn marked(variable: &str, value: &str) -> Vec<u32> {
    let mark = format!("{variable}={value}");
    pids()
        .filter(|pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes())
        })
        .collect()
}

/// A process that cannot be taken for another with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// Clock ticks since boot.
    started: u64,
}

impl Process {
    /// Whether it still runs: not ended, and not a zombie.
    pub(crate) fn lives(self) -> bool {
        stat(self.pid).is_some_and(|(_, started, zombie)| started == self.started && !zombie)
    }
}

/// All that descend from a process, by their parents.
pub(crate) fn descendants(root: u32) -> Vec<Process> {
    let all: Vec<(u32, u32, u64)> =
        pids().filter_map(|pid| stat(pid).map(|(parent, started, _)| (pid, parent, started))).collect();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![root];
    while let Some(parent) = parents.pop() {
        for (pid, _, started) in all.iter().filter(|(_, of, _)| *of == parent) {
            found.push(Process { pid: *pid, started: *started });
            parents.push(*pid);
        }
    }
    found
}

/// The parent of a process, when it was started, and whether it is a zombie.
fn stat(pid: u32) -> Option<(u32, u64, bool)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let fields: Vec<&str> = text.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?, *fields.first()? == "Z"))
}

/// The command line of a process, as one would type it.
pub(crate) fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ")
}

/// The inodes of all sockets that a process has open.
pub(crate) fn open_sockets(pid: u32) -> HashSet<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return HashSet::new() };
    entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|link| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok())
        .collect()
}

/// Which process has one of these sockets open.
pub(crate) fn owner_of(inodes: &[u64]) -> Option<u32> {
    pids().find(|pid| {
        let open = open_sockets(*pid);
        inodes.iter().any(|inode| open.contains(inode))
    })
}

fn pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_accepted_and_read_connections_from_others() {
        let line = "   0: 0100007F:1F90 0100007F:A2C4 01 00000000:0000001B 00:00000000 00000000     0        0 4711 1";
        let socket = parse_socket(line).unwrap();
        assert_eq!(socket.local, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(socket.remote.port(), 41668);
        assert_eq!((socket.listens, socket.unread, socket.inode), (false, 27, 4711));
        assert_eq!(parse_socket("rubbish"), None);
    }

    #[test]
    fn a_child_is_found_without_any_mark_and_is_gone_when_it_has_ended() {
        let mut child = std::process::Command::new("sleep").arg("60").env_clear().spawn().unwrap();
        let found = descendants(std::process::id());
        let process = *found.iter().find(|process| process.pid == child.id()).unwrap();
        assert!(process.lives());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!process.lives());
    }

    #[test]
    fn a_listener_of_this_process_is_found_with_its_owner() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let inodes = listeners(listener.local_addr().unwrap().port());
        assert_eq!(inodes.len(), 1);
        assert_eq!(owner_of(&inodes), Some(std::process::id()));
    }
}
