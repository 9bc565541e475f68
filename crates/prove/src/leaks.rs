//! What stays when a program has ended.

use std::collections::HashSet;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::procfs;
use crate::row::Leak;
use crate::running::{self, Running};

/// What stays once the main process is gone: files and sockets, children, the port.
pub(crate) async fn leaks(
    process: &Running,
    watch: Option<&Path>,
    before: &HashSet<PathBuf>,
    port: u16,
) -> Vec<Leak> {
    // Children that end with their parent do so within a few scheduling turns.
    let until = Instant::now() + Duration::from_millis(300);
    let mut alive = process.alive();
    while !alive.is_empty() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
        alive = process.alive();
    }
    let mut found = Vec::new();
    let owner = procfs::owner_of(&procfs::listeners(port));
    for pid in alive {
        let line = procfs::command_line(pid);
        found.push(Leak { kind: "child", what: format!("pid {pid} {line}") });
        if owner == Some(pid) {
            found.push(Leak { kind: "port", what: format!("{port}, still held by pid {pid} {line}") });
        }
    }
    let Some(dir) = watch else { return found };
    let main = format!("pid {}", process.pid);
    for path in running::files_below(dir).into_iter().filter(|path| !before.contains(path)) {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let name = path.strip_prefix(dir).unwrap_or(&path).display().to_string();
        found.push(if metadata.file_type().is_socket() {
            Leak { kind: "socket", what: format!("{name}, left by {main}") }
        } else {
            Leak { kind: "file", what: format!("{name} ({} bytes), left by {main}", metadata.len()) }
        });
    }
    found
}
